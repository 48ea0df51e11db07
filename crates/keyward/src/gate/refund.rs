//! Refunds that a handler asks for.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::replica::credit_cache::{CreditCache, Spent};

/// A flag that a principal shares with the charges of its request.
///
/// It is a bit of a word that 64 requests share, so that few of them allocate one.
#[derive(Clone)]
pub(crate) struct RefundFlag {
    word: Arc<AtomicU64>,
    bit: u64,
}

thread_local! {
    static LAST: Cell<Option<RefundFlag>> = const { Cell::new(None) };
}

impl RefundFlag {
    pub(crate) fn new() -> Self {
        // It fails in a thread that ends.
        let last = LAST.try_with(Cell::take).ok().flatten();
        let next = match last {
            Some(Self { word, bit }) if bit < 1 << 63 => Self {
                word,
                bit: bit << 1,
            },
            _ => Self {
                word: Arc::default(),
                bit: 1,
            },
        };
        _ = LAST.try_with(|last| last.set(Some(next.clone())));
        next
    }

    pub(crate) fn set(&self) {
        self.word.fetch_or(self.bit, Ordering::AcqRel);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.word.load(Ordering::Acquire) & self.bit != 0
    }
}

impl fmt::Debug for RefundFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefundFlag({})", self.is_set())
    }
}

/// The credits that a request has paid, until its response is known.
///
/// If it is dropped before, as when a client disconnects, they are refunded if the handler has said
/// so.
#[derive(Debug)]
pub(crate) struct PaidCredits {
    spent: Spent,
    flag: Option<RefundFlag>,
}

impl PaidCredits {
    pub(crate) fn new(spent: Spent) -> Self {
        Self { spent, flag: None }
    }

    /// Sets the flag by which the handler refunds them.
    pub(crate) fn refunded_by(&mut self, flag: &RefundFlag) {
        self.flag = Some(flag.clone());
    }

    pub(crate) fn give_back(&mut self) {
        self.spent.give_back();
    }

    /// Decides at the response: refunded by its status or by the handler, or kept for good.
    pub(crate) fn settle(&mut self, is_refunded: bool) {
        if is_refunded || self.is_flagged() {
            self.spent.give_back();
        }
        self.spent.keep();
    }

    /// Returns the credits of this process from which they were paid.
    pub(crate) fn credit_cache(&self) -> &CreditCache {
        self.spent.credit_cache()
    }

    fn is_flagged(&self) -> bool {
        self.flag.as_ref().is_some_and(RefundFlag::is_set)
    }
}

impl Drop for PaidCredits {
    fn drop(&mut self) {
        if self.is_flagged() {
            self.spent.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_a_flag_of_its_own() {
        let flags: Vec<_> = (0..200).map(|_| RefundFlag::new()).collect();
        for flag in flags.iter().step_by(3) {
            flag.set();
        }
        for (at, flag) in flags.iter().enumerate() {
            assert_eq!(flag.is_set(), at % 3 == 0, "{at}");
        }
    }
}
