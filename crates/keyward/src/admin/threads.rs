//! Threads for work that would block an executor for too long.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{io, mem, thread};

use futures_channel::oneshot;

use crate::admin::AdminError;

/// The maximum number of concurrent threads; each may hold a long text.
const AT_ONCE: usize = 2;

/// The threads of this process, shared by every `KeyAdmin`.
pub(super) static THREADS: Threads = Threads::new();

/// Runs jobs on a few threads of their own; others wait.
///
/// A job waits in the queue and not in its future, so that a future that is kept without being polled
/// holds up no other job.
pub(super) struct Threads(Mutex<State>);

struct State {
    running: usize,
    waiting: VecDeque<Box<dyn Work>>,
}

impl Threads {
    const fn new() -> Self {
        Self(Mutex::new(State {
            running: 0,
            waiting: VecDeque::new(),
        }))
    }

    /// Runs a job on another thread.
    ///
    /// If the future is dropped, a waiting job is dropped too, and a running one sees it in
    /// `is_wanted`.
    pub(super) async fn run<T: Send + 'static>(
        &'static self,
        job: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<T, AdminError> {
        // Dropped after the receiver.
        let _forgotten = Forgotten(self);
        let (answer, answered) = oneshot::channel();
        self.state()
            .waiting
            .push_back(Box::new(Job { job, answer }));
        self.start().map_err(AdminError::thread)?;
        answered.await.map_err(AdminError::thread)
    }

    /// Starts a thread, unless enough are running.
    fn start(&'static self) -> io::Result<()> {
        let mut state = self.state();
        if state.running == AT_ONCE {
            return Ok(());
        }
        state.running += 1;
        drop(state);
        let work = move || {
            while let Some(next) = self.next() {
                next.run();
            }
        };
        let thread = thread::Builder::new().name("keyward-leaks".to_owned());
        let Err(error) = thread.spawn(work) else {
            return Ok(());
        };
        let mut state = self.state();
        state.running -= 1;
        if state.running > 0 {
            // A running thread takes the job when it has done its own.
            return Ok(());
        }
        let waiting = mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
        Err(error)
    }

    /// Returns the next job for a thread, which ends if there is none.
    fn next(&self) -> Option<Box<dyn Work>> {
        let mut state = self.state();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.running -= 1;
        }
        next
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job whose type is not named.
trait Work: Send {
    fn is_wanted(&self) -> bool;

    fn run(self: Box<Self>);
}

struct Job<F, T> {
    job: F,
    answer: oneshot::Sender<T>,
}

impl<F, T> Work for Job<F, T>
where
    F: FnOnce(&dyn Fn() -> bool) -> T + Send,
    T: Send,
{
    fn is_wanted(&self) -> bool {
        !self.answer.is_canceled()
    }

    fn run(self: Box<Self>) {
        let Self { job, answer } = *self;
        // A panic ends the job and not the thread; its future finds that there is no answer.
        drop(panic::catch_unwind(AssertUnwindSafe(|| {
            let done = job(&|| !answer.is_canceled());
            drop(answer.send(done));
        })));
    }
}

/// Drops the jobs that are not wanted any more.
struct Forgotten(&'static Threads);

impl Drop for Forgotten {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let waiting = mem::take(&mut state.waiting).into_iter();
        let (wanted, forgotten) = waiting.partition::<VecDeque<_>, _>(|job| job.is_wanted());
        state.waiting = wanted;
        drop(state);
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;
    use crate::record::AdminErrorKind;
    use crate::testing::block_on;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_job_whose_future_is_dropped_is_told_and_makes_room() {
        static THREADS: Threads = Threads::new();
        let context = &mut Context::from_waker(Waker::noop());
        for _ in 0..3 * AT_ONCE {
            let (told, tells) = mpsc::channel();
            let mut job = Box::pin(THREADS.run(move |is_wanted| {
                told.send("started").unwrap();
                while is_wanted() {
                    thread::yield_now();
                }
                told.send("stopped").unwrap();
            }));
            // The previous job may still be about to release its thread.
            while tells.try_recv() != Ok("started") {
                assert!(job.as_mut().poll(context).is_pending());
                thread::yield_now();
            }
            drop(job);
            assert_eq!(tells.recv_timeout(LONG), Ok("stopped"));
        }
    }

    #[test]
    fn few_run_at_once_and_the_others_wait_for_their_turn() {
        static THREADS: Threads = Threads::new();
        let context = &mut Context::from_waker(Waker::noop());
        let (told, tells) = mpsc::channel();
        let mut all: Vec<_> = (0..3 * AT_ONCE)
            .map(|number| {
                let told = told.clone();
                let (go, wait) = mpsc::channel::<()>();
                let job = Box::pin(THREADS.run(move |_| {
                    told.send(number).unwrap();
                    wait.recv().unwrap_err();
                    number
                }));
                (job, go)
            })
            .collect();
        for (job, _) in &mut all {
            assert!(job.as_mut().poll(context).is_pending());
        }
        let mut first: Vec<_> = (0..AT_ONCE)
            .map(|_| tells.recv_timeout(LONG).unwrap())
            .collect();
        first.sort_unstable();
        assert!(first.iter().copied().eq(0..AT_ONCE));
        let state = || {
            let state = THREADS.state();
            (state.running, state.waiting.len())
        };
        assert_eq!(state(), (AT_ONCE, 2 * AT_ONCE));
        // Jobs that no longer wait leave nothing behind.
        drop(all.remove(AT_ONCE));
        assert_eq!(state(), (AT_ONCE, 2 * AT_ONCE - 1));
        let done: Vec<_> = all
            .into_iter()
            .map(|(job, go)| {
                drop(go);
                block_on(job).unwrap()
            })
            .collect();
        assert_eq!(done.len(), 3 * AT_ONCE - 1);
    }

    #[test]
    fn a_future_that_is_kept_and_not_polled_holds_up_no_other() {
        static THREADS: Threads = Threads::new();
        let context = &mut Context::from_waker(Waker::noop());
        let (go, wait) = mpsc::channel::<()>();
        let wait = std::sync::Arc::new(Mutex::new(wait));
        let mut kept: Vec<_> = (0..3 * AT_ONCE)
            .map(|_| {
                let wait = std::sync::Arc::clone(&wait);
                Box::pin(THREADS.run(move |_| wait.lock().unwrap().recv().unwrap_err()))
            })
            .collect();
        for job in &mut kept {
            assert!(job.as_mut().poll(context).is_pending());
        }
        drop(go);
        let (told, tells) = mpsc::channel();
        thread::spawn(move || told.send(block_on(THREADS.run(|_| 7)).unwrap()));
        assert_eq!(tells.recv_timeout(LONG), Ok(7));
    }

    #[test]
    fn a_job_that_panics_is_an_error_and_makes_room() {
        static THREADS: Threads = Threads::new();
        for _ in 0..=AT_ONCE {
            let error = block_on(THREADS.run(|_| panic!("as the test wants"))).map(|(): ()| ());
            assert_eq!(error.unwrap_err().kind(), AdminErrorKind::Thread);
        }
        assert_eq!(block_on(THREADS.run(|_| 7)).unwrap(), 7);
    }
}
