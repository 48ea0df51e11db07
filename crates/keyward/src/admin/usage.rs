//! Reads usage: by key and hour, by label, and summed for bills.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::SystemTime;

use crate::admin::{Actor, AdminError, KeyAdmin};
use crate::clock::unix_time;
use crate::environment::Environment;
use crate::ids::AccountId;
use crate::record::AuditAction;
use crate::scope::Permission;
use crate::usage::{KeyUsage, RequestCounts, UsageCursor, UsageQuery, UsageSum};

/// The number of rows that are read at a time to be summed.
const PART: usize = 10_000;

/// The visible part of a requested range: an account and an environment, or all.
type Visible = (Option<AccountId>, Option<Environment>);

impl KeyAdmin {
    /// Returns how often an account's keys were used, by key and hour.
    ///
    /// An acting key sees the usage of its own environment. The period is widened to whole hours.
    /// Requests count in the hour in which they were flushed, at most one flush interval late.
    /// Usage that was rolled up to a day or a month counts in its first hour.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the account is unknown, or the store
    /// fails.
    pub async fn usage(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Option<Environment>,
        span: Range<SystemTime>,
    ) -> Result<Vec<KeyUsage>, AdminError> {
        let visible = self.visible(actor, Some(account), environment).await?;
        let Some((account, environment)) = visible else {
            return Ok(Vec::new());
        };
        let until = unix_time(span.end).as_secs().div_ceil(3600);
        let query = UsageQuery {
            environment,
            ..UsageQuery::of(account, hour_of(span.start)..until)
        };
        let mut rows = self.store.usage(query).await?;
        rows.sort_by_key(|row| (row.hour, row.key));
        Ok(rows)
    }

    /// Returns a page of usage, by key and hour, or by key, label and hour.
    ///
    /// It is for exports: see [`UsageFilter`]. Without an account, an operator reads the usage of
    /// all accounts.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the account is unknown, or the store
    /// fails.
    pub async fn usage_page(
        &self,
        actor: &Actor,
        filter: UsageFilter,
    ) -> Result<UsagePage, AdminError> {
        let UsageFilter { mut query } = filter;
        let visible = self
            .visible(actor, query.account.as_ref(), query.environment)
            .await?;
        let Some((account, environment)) = visible else {
            let (rows, next) = (Vec::new(), None);
            return Ok(UsagePage { rows, next });
        };
        (query.account, query.environment) = (account, environment);
        let limit = query.limit;
        // One more than asked for, to find out whether there is another page.
        query.limit += 1;
        let mut rows = self.store.usage(query).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(KeyUsage::cursor);
        Ok(UsagePage { rows, next })
    }

    /// Returns the sums of usage by account, environment and label, for a bill.
    ///
    /// Each account and environment has a line of all requests, followed by a line for each label,
    /// which are a part of it. Both ends of the period are rounded down to a whole hour, so
    /// periods that follow each other count nothing twice and leave nothing out. Begin and end a
    /// bill at the times of your own time zone. Without an account, an operator reads the sums of
    /// all accounts.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use keyward::Requirement;
    /// # use keyward::testing::{TestRequest, World, block_on};
    /// # let world = World::new();
    /// # let (admin, operator) = (world.admin(), world.operator());
    /// # let request = TestRequest::get().key(&world.key("kyc"));
    /// assert_eq!(world.status(&request, Requirement::new()), 200);
    /// # let (start, end) = (admin.now() - Duration::from_secs(3600), admin.now() + Duration::from_secs(3600));
    /// let bill = block_on(admin.usage_sums(&operator, None, start..end))?;
    /// assert_eq!(bill[0].account.as_str(), "acme");
    /// assert_eq!((bill[0].label, bill[0].billable()), (None, 1));
    /// # Ok::<(), keyward::admin::AdminError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the account is unknown, or the store
    /// fails.
    pub async fn usage_sums(
        &self,
        actor: &Actor,
        account: Option<&AccountId>,
        span: Range<SystemTime>,
    ) -> Result<Vec<UsageSum>, AdminError> {
        let Some((account, environment)) = self.visible(actor, account, None).await? else {
            return Ok(Vec::new());
        };
        let mut query = UsageQuery {
            environment,
            summed: true,
            limit: PART,
            ..UsageQuery::of(account, hour_of(span.start)..hour_of(span.end))
        };
        let mut sums: BTreeMap<_, RequestCounts> = BTreeMap::new();
        for labels in [false, true] {
            (query.labels, query.after) = (labels, None);
            loop {
                let rows = self.store.usage(query.clone()).await?;
                query.after = rows.last().map(KeyUsage::cursor);
                let is_last = rows.len() < PART;
                for row in rows {
                    let line = (row.account, row.environment, row.label);
                    *sums.entry(line).or_default() += row.counts;
                }
                if is_last {
                    break;
                }
            }
        }
        let sums = sums.into_iter();
        let sums = sums.map(|((account, environment, label), counts)| UsageSum {
            account,
            environment,
            label,
            counts,
        });
        Ok(sums.collect())
    }

    /// Returns the part of the usage that the actor may read, after a flush; `None` for nothing.
    async fn visible(
        &self,
        actor: &Actor,
        account: Option<&AccountId>,
        environment: Option<Environment>,
    ) -> Result<Option<Visible>, AdminError> {
        let seen = match account {
            Some(account) => self
                .permit_in(actor, Permission::Read, account)
                .await
                .map(|(_, permitted)| permitted.seen(environment)),
            None => actor.must_be_operator().map(|()| Some(environment)),
        };
        let seen = self.audited(actor, AuditAction::Read).check(seen).await?;
        let Some(environment) = seen else {
            return Ok(None);
        };
        self.store.flush().await?;
        Ok(Some((account.cloned(), environment)))
    }
}

fn hour_of(time: SystemTime) -> u64 {
    unix_time(time).as_secs() / 3600
}

/// A filter for pages of usage, by default of all accounts, 1000 rows each.
///
/// ```
/// # use std::time::Duration;
/// # use keyward::Requirement;
/// # use keyward::testing::{TestRequest, World, block_on};
/// use keyward::admin::UsageFilter;
/// use keyward::usage::CsvWriter;
///
/// # let world = World::new();
/// # let (admin, operator) = (world.admin(), world.operator());
/// # let request = TestRequest::get().key(&world.key("kyc"));
/// # assert_eq!(world.status(&request, Requirement::new()), 200);
/// # let (start, end) = (admin.now() - Duration::from_secs(3600), admin.now() + Duration::from_secs(3600));
/// let mut csv = CsvWriter::new(Vec::new()); // usually a file
/// let mut filter = UsageFilter::new(start..end);
/// loop {
///     let page = block_on(admin.usage_page(&operator, filter.clone()))?;
///     csv.write(&page.rows)?;
///     let Some(next) = page.next else { break };
///     filter = filter.after(next);
/// }
/// assert_eq!(String::from_utf8(csv.into_inner())?.lines().count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct UsageFilter {
    query: UsageQuery,
}

impl UsageFilter {
    /// Creates a filter for a period. Both ends are rounded down to a whole hour.
    pub fn new(span: Range<SystemTime>) -> Self {
        Self {
            query: UsageQuery {
                limit: 1000,
                ..UsageQuery::of(None, hour_of(span.start)..hour_of(span.end))
            },
        }
    }

    /// Selects only the usage of this account.
    pub fn account(mut self, account: AccountId) -> Self {
        self.query.account = Some(account);
        self
    }

    /// Selects only the usage of this environment.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.query.environment = Some(environment);
        self
    }

    /// Selects the usage by label instead of that of all requests.
    pub fn by_label(mut self) -> Self {
        self.query.labels = true;
        self
    }

    /// Continues after an earlier page.
    pub fn after(mut self, page: UsageCursor) -> Self {
        self.query.after = Some(page);
        self
    }

    /// Sets the page size, from 1 to 10,000.
    pub fn limit(mut self, limit: usize) -> Self {
        self.query.limit = limit.clamp(1, PART);
        self
    }
}

/// A page of usage. See [`UsageFilter`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UsagePage {
    /// The usage, sorted by key, then by label, then by hour.
    pub rows: Vec<KeyUsage>,
    /// The position for [`UsageFilter::after`]; `None` on the last page.
    pub next: Option<UsageCursor>,
}
