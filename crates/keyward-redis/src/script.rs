//! The scripts that count in Redis, their arguments and their replies.

use std::fmt::Write as _;
use std::time::Duration;

use keyward::limit::{Bucket, BucketOwner, Charge, CountedLevel};
use redis::{Cmd, Script};

/// The scripts, with their hashes.
pub(crate) struct Scripts {
    pub(crate) take: Source,
    pub(crate) give_back: Source,
}

/// The source of a script and the hash by which Redis knows it.
pub(crate) struct Source {
    text: String,
    script: Script,
}

impl Scripts {
    /// Creates the scripts, which count by the clock of the server.
    pub(crate) fn new() -> Self {
        Self {
            take: Source::new(include_str!("take.lua").into()),
            give_back: Source::new(include_str!("give_back.lua").into()),
        }
    }

    /// Creates scripts for tests, which read the time from the last argument.
    ///
    /// What they write lasts longer than a test, since that clock may stand still.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn by_argument() -> Self {
        let by_argument = |source: &str| {
            let source = source.replace("local time = redis.call('TIME')\n", "");
            let source = source.replace("time[1] * 1000000 + time[2]", "tonumber(ARGV[#ARGV])");
            Source::new(source.replace("kept_for = 1000", "kept_for = 3600000"))
        };
        Self {
            take: by_argument(include_str!("take.lua")),
            give_back: by_argument(include_str!("give_back.lua")),
        }
    }
}

impl Source {
    fn new(text: String) -> Self {
        let script = Script::new(&text);
        Self { text, script }
    }
}

/// A call of a script.
pub(crate) struct Call {
    source: fn(&Scripts) -> &Source,
    keys: Vec<String>,
    arguments: Vec<u64>,
}

impl Call {
    /// Creates the call that takes a charge.
    pub(crate) fn take(prefix: &str, charge: &Charge) -> Self {
        let arguments = charge.buckets().flat_map(|bucket| {
            let depth = cost(bucket, bucket.limit().max_burst());
            let cost = cost(bucket, charge.cost());
            [cost / 1000, cost % 1000, depth / 1000, depth % 1000]
        });
        Self {
            source: |scripts| &scripts.take,
            keys: keys(prefix, charge),
            arguments: arguments.collect(),
        }
    }

    /// Creates the call that gives a charge back; `None` if Redis was not charged.
    pub(crate) fn give_back(prefix: &str, charge: &Charge) -> Option<Self> {
        let taken = charge.buckets().zip(charge.receipts()?);
        let arguments = taken.flat_map(|(bucket, full_at)| {
            let cost = cost(bucket, charge.cost());
            [cost / 1000, cost % 1000, full_at / 1000, full_at % 1000]
        });
        Some(Self {
            source: |scripts| &scripts.give_back,
            keys: keys(prefix, charge),
            arguments: arguments.collect(),
        })
    }

    /// Creates calls that take nothing and give nothing back, but read and write as every other.
    pub(crate) fn probes(prefix: &str) -> [Self; 2] {
        let sources: [fn(&Scripts) -> &Source; 2] =
            [|scripts| &scripts.take, |scripts| &scripts.give_back];
        sources.map(|source| Self {
            source,
            keys: vec![format!("{prefix}:probe")],
            arguments: vec![0; 4],
        })
    }

    /// Adds the time for [`Scripts::by_argument`].
    pub(crate) fn at(mut self, now: Option<Duration>) -> Self {
        let micros = |now: Duration| u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.arguments.extend(now.map(micros));
        self
    }

    /// Returns the command that names the script by its hash.
    pub(crate) fn by_hash(&self, scripts: &Scripts) -> Cmd {
        self.command("EVALSHA", (self.source)(scripts).script.get_hash())
    }

    /// Returns the command that contains the script, which Redis keeps from then on.
    pub(crate) fn in_full(&self, scripts: &Scripts) -> Cmd {
        self.command("EVAL", &(self.source)(scripts).text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let keys: usize = self.keys.iter().map(String::len).sum();
        let size = name.len() + script.len() + keys + 20 * self.arguments.len();
        let mut command = Cmd::with_capacity(3 + self.keys.len() + self.arguments.len(), size);
        command.arg(name).arg(script).arg(self.keys.len());
        command.arg(&self.keys).arg(&self.arguments);
        command
    }
}

/// The reply of the script that takes.
pub(crate) struct Taken {
    pub(crate) is_taken: bool,
    pub(crate) levels: Vec<CountedLevel>,
}

impl Taken {
    /// Reads the reply; `None` if it is none.
    pub(crate) fn parse(reply: &[u64]) -> Option<Self> {
        let [is_taken, now, full_at @ ..] = reply else {
            return None;
        };
        let level = |full_at: &u64| CountedLevel {
            full_in: Duration::from_nanos(full_at.saturating_sub(*now)),
            receipt: *full_at,
        };
        Some(Self {
            is_taken: *is_taken == 1,
            levels: full_at.iter().map(level).collect(),
        })
    }
}

/// Returns the time that a cost takes to refill, in nanoseconds.
fn cost(bucket: &Bucket, cost: u32) -> u64 {
    let interval = u64::try_from(bucket.limit().interval().as_nanos()).unwrap_or(u64::MAX);
    interval.saturating_mul(cost.into())
}

/// Returns the key of each bucket.
///
/// The part in braces is what a cluster computes the slot from. It is the same for all buckets of an
/// account and environment, so that one script can count them.
fn keys(prefix: &str, charge: &Charge) -> Vec<String> {
    let mut account = String::new();
    let escaped = charge.buckets().next().into_iter();
    for c in escaped.flat_map(|bucket| bucket.owner().account().as_str().chars()) {
        match c {
            // A brace would end the part early.
            '{' | '}' | '%' => _ = write!(account, "%{:02X}", u32::from(c)),
            c => account.push(c),
        }
    }
    let key = |bucket: &Bucket| {
        let (owner, limit) = (bucket.owner(), bucket.limit());
        let environment = owner.environment();
        match owner {
            BucketOwner::Key(_, _, key) => {
                format!("{prefix}:{{{account}:{environment}}}:{key}:{limit}")
            }
            BucketOwner::Account(..) => format!("{prefix}:{{{account}:{environment}}}:{limit}"),
        }
    };
    charge.buckets().map(key).collect()
}
