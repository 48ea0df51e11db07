//! A month of a small business that sells translations, which passes at once: quotas, usage and bills.
//!
//! The clock is one that is told what time it is. It goes through March 2026 in Berlin, whose 29th has 23
//! hours, and into the first hours of April, when the quotas begin again.
//!
//! ```text
//! cargo run --example month
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use keyward::clock::{Clock, ManualClock};
use keyward::credits::{Credits, Refill, RefillSchedule};
use keyward::{
    AccountId, Actor, ApiKey, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore,
    NewKey, Requirement, Store,
};
use keyward_tower::{Principal, RequireKeyLayer};
use tower::ServiceExt;

const ZONE: &str = "Europe/Berlin";

/// Prices are in cents, and quotas in credits a month.
struct Plan {
    name: &'static str,
    price: u64,
    included: u64,
    /// What may be used beyond that, at a price for each.
    beyond: u64,
    price_beyond: u64,
    /// The balance up to which unused credits are kept.
    kept_up_to: Option<u64>,
}

const STARTER: Plan = Plan {
    name: "starter",
    price: 1900,
    included: 1000,
    beyond: 500,
    price_beyond: 2,
    kept_up_to: None,
};
const TEAM: Plan = Plan {
    name: "team",
    price: 7900,
    included: 5000,
    beyond: 0,
    price_beyond: 0,
    kept_up_to: Some(7500),
};

impl Plan {
    /// The quota: a soft limit at what is included, and a hard one above it.
    fn credits(&self) -> Result<Credits, Failure> {
        let month = RefillSchedule::monthly(ZONE)?;
        let refill = Refill::every(month, self.included + self.beyond);
        let refill = match self.kept_up_to {
            Some(cap) => refill.roll_over(cap),
            None => refill,
        };
        let credits = Credits::new(self.included + self.beyond).refill(refill);
        Ok(credits.warn_below(self.beyond))
    }

    fn bill(&self, used: u64) -> u64 {
        self.price + used.saturating_sub(self.included) * self.price_beyond
    }
}

/// A customer, and how many texts it sends in an hour of a working day and of a weekend.
struct Customer {
    name: &'static str,
    plan: &'static Plan,
    texts: [u32; 2],
}

const CUSTOMERS: [Customer; 3] = [
    Customer {
        name: "bakery",
        plan: &STARTER,
        texts: [1, 3],
    },
    Customer {
        name: "law-firm",
        plan: &STARTER,
        texts: [5, 0],
    },
    Customer {
        name: "museum",
        plan: &TEAM,
        texts: [4, 12],
    },
];

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    for line in month().await?.lines {
        println!("{line}");
    }
    Ok(())
}

/// A translation costs a credit for each hundred words that it begins, and an empty text nothing.
async fn translate(caller: Principal, Path(words): Path<u32>) -> (StatusCode, &'static str) {
    if words == 0 {
        caller.refund();
        return (StatusCode::BAD_REQUEST, "no text");
    }
    let more = (words - 1) / 100; // the route has charged the first
    if let Err(error) = caller.charge(more).await {
        caller.refund();
        let status = StatusCode::from_u16(error.code().status());
        return (status.unwrap_or(StatusCode::TOO_MANY_REQUESTS), "too long");
    }
    caller.record(u64::from(more) + 1);
    (StatusCode::OK, "Hallo")
}

#[derive(Debug, PartialEq)]
struct Month {
    lines: Vec<String>,
    /// What each customer has used, according to its bill and to its balance.
    used: Vec<[u64; 2]>,
}

async fn month() -> Result<Month, Failure> {
    let [march, april] = ["2026-02-28T23:00Z", "2026-03-31T22:00Z"].map(str::parse::<Timestamp>);
    let (march, april) = (SystemTime::try_from(march?)?, SystemTime::try_from(april?)?);
    let business = Business::open(march)?;
    let mut keys = Vec::new();
    for customer in &CUSTOMERS {
        keys.push(business.sell_to(customer).await?);
    }

    let mut lines = vec!["March 2026".to_owned()];
    let mut told = [Told::default(); CUSTOMERS.len()];
    let hours = april.duration_since(march)?.as_secs() / 3600;
    for hour in 0..hours {
        if hour > 0 {
            business.clock.advance(Duration::from_secs(3600));
        }
        for ((customer, key), told) in CUSTOMERS.iter().zip(&keys).zip(&mut told) {
            let lines = &mut lines;
            business.work_for(customer, key, told, lines).await?;
        }
        // Requests count in the hour in which they are written down.
        business.store.flush().await?;
    }

    let admin = &business.admin;
    let sums = admin
        .usage_sums(&business.operator, None, march..april)
        .await?;
    lines.extend(["", "usage                requests   4xx  refused  credits"].map(str::to_owned));
    for sum in &sums {
        let (label, counts) = (sum.label.map(|label| label.to_string()), sum.counts);
        let (account, label) = (sum.account.as_str(), label.unwrap_or("in all".to_owned()));
        lines.push(format!(
            "{account:<9} {label:<10} {:>8} {:>5} {:>8} {:>8}",
            counts.admitted,
            counts.client_errors,
            counts.refused,
            sum.billable_units(),
        ));
    }

    let mut left = Vec::new();
    for customer in &CUSTOMERS {
        left.push(business.left(customer).await?);
    }
    business.clock.advance(Duration::from_secs(3600)); // into April
    let title = "bill      plan     included  used     EUR  left 31 March  1 April";
    lines.extend(["", title].map(str::to_owned));
    let mut used = Vec::new();
    for (customer, left) in CUSTOMERS.iter().zip(left) {
        let in_all = sums.iter().filter(|sum| sum.label.is_none());
        let mut own = in_all.filter(|sum| sum.account.as_str() == customer.name);
        let billed = own
            .next()
            .map_or(0, keyward::usage::UsageSum::billable_units);
        let (plan, refilled) = (customer.plan, business.left(customer).await?);
        let cents = plan.bill(billed);
        lines.push(format!(
            "{:<9} {:<8} {:>8} {billed:>5} {:>4}.{:02} {left:>14} {refilled:>8}",
            customer.name,
            plan.name,
            plan.included,
            cents / 100,
            cents % 100,
        ));
        used.push([billed, plan.included + plan.beyond - left]);
    }
    Ok(Month { lines, used })
}

/// What a customer was told this month.
#[derive(Clone, Copy, Default)]
struct Told {
    is_low: bool,
    is_refused: bool,
}

struct Business {
    clock: Arc<ManualClock>,
    store: MemoryStore,
    admin: KeyAdmin,
    operator: Actor,
    app: Router,
}

impl Business {
    fn open(now: SystemTime) -> Result<Self, Failure> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH)?;
        let clock = Arc::new(ManualClock::at(now));
        let store = MemoryStore::with_clock(Arc::<ManualClock>::clone(&clock));
        let scheme = KeyScheme::new(KeyFormat::new("hello_{env}_")?);
        let gate = Gate::new(&store, &scheme)?;
        let route = |label: &str, credits| {
            let requirement = Requirement::new().label(label).credits(credits);
            RequireKeyLayer::new(&gate, requirement)
        };
        let translate = get(translate).layer(route("translate", 1));
        let detect = get(async || "de").layer(route("detect", 0));
        Ok(Self {
            clock,
            admin: KeyAdmin::new(&store, &scheme),
            store,
            operator: Actor::operator("sales"),
            app: Router::new()
                .route("/translate/{words}", translate)
                .route("/detect", detect),
        })
    }

    async fn sell_to(&self, customer: &Customer) -> Result<ApiKey, Failure> {
        let account = AccountId::parse(customer.name)?;
        self.admin.open_account(&self.operator, &account).await?;
        let credits = Some(customer.plan.credits()?);
        self.admin
            .set_credits(&self.operator, account.clone(), credits)
            .await?;
        let new = NewKey::new(account, Environment::LIVE, "production");
        let key = self.admin.create(&self.operator, new).await?.key;
        Ok(key.ok_or("no key")?)
    }

    async fn left(&self, customer: &Customer) -> Result<u64, Failure> {
        let account = AccountId::parse(customer.name)?;
        let credits = self.admin.credits(&self.operator, account).await?;
        Ok(credits.map_or(0, |credits| credits.left))
    }

    /// Sends the requests of a customer in an hour.
    async fn work_for(
        &self,
        customer: &Customer,
        key: &ApiKey,
        told: &mut Told,
        lines: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let now = Timestamp::from_nanosecond(self.clock.unix().as_nanos().try_into()?)?;
        let here = TimeZone::get(ZONE)?.to_datetime(now);
        if !(8..18).contains(&here.hour()) {
            return Ok(());
        }
        let is_weekend = matches!(here.weekday(), Weekday::Saturday | Weekday::Sunday);
        for text in 0..customer.texts[usize::from(is_weekend)] {
            // A short text, a long one, one that was forgotten, and so on.
            let number = u32::try_from(here.day())? + u32::try_from(here.hour())? + text;
            let words = [40, 250, 90, 0, 120][number as usize % 5];
            self.send(key, "/detect").await?;
            let (status, limits) = self.send(key, &format!("/translate/{words}")).await?;
            let event = match status {
                429 if !told.is_refused => {
                    told.is_refused = true;
                    "is refused"
                }
                200 if limits.contains(r#""credits-soft";r=0"#) && !told.is_low => {
                    told.is_low = true;
                    "has used what is included"
                }
                _ => continue,
            };
            let time = here.strftime("%e %H:%M");
            lines.push(format!("{time}  {} {event}: {limits}", customer.name));
        }
        Ok(())
    }

    /// Sends a request, and returns its status and what it is told about limits.
    async fn send(&self, key: &ApiKey, path: &str) -> Result<(u16, String), Failure> {
        let request = Request::get(path).header("x-api-key", key.expose_secret());
        let request = request.body(Body::empty())?;
        let response = self.app.clone().oneshot(request).await?;
        let mut told = Vec::new();
        for name in ["ratelimit", "retry-after"] {
            if let Some(value) = response.headers().get(name) {
                told.push(format!("{name}: {}", value.to_str()?));
            }
        }
        Ok((response.status().as_u16(), told.join("  ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bills_agree_with_balances_and_every_run_is_the_same() {
        let first = month().await.unwrap();
        for [billed, gone] in &first.used {
            assert_eq!(billed, gone);
        }
        for expected in [
            r#"20 10:00  law-firm has used what is included: ratelimit: "credits";r=499;t=997200, "#,
            "31 12:00  law-firm is refused: ",
            "bakery    starter      1000   686   19.00            814     1500",
            "law-firm  starter      1000  1500   29.00              0     1500",
            "museum    team         5000  2744   79.00           2256     7256",
        ] {
            let mut lines = first.lines.iter();
            assert!(lines.any(|line| line.starts_with(expected)), "{expected}");
        }
        assert_eq!(month().await.unwrap(), first);
    }
}
