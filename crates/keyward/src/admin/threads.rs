//! Threads for work that would block an executor for too long.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use futures_channel::oneshot;

use crate::admin::AdminError;

/// The maximum number of concurrent threads; each may hold a long text.
const AT_ONCE: usize = 2;

/// The threads of this process, shared by every `KeyAdmin`.
pub(super) static THREADS: Threads = Threads::new();

/// Runs each job on its own thread, up to a limit; others wait.
pub(super) struct Threads(Mutex<State>);

struct State {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

impl Threads {
    const fn new() -> Self {
        Self(Mutex::new(State {
            running: 0,
            waiting: VecDeque::new(),
        }))
    }

    /// Runs a job on a thread of its own.
    ///
    /// If the future is dropped, a waiting job is dropped too, and a running one sees it in
    /// `is_wanted`.
    pub(super) async fn run<T: Send + 'static>(
        &'static self,
        job: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<T, AdminError> {
        let permit = self.ask().await.map_err(AdminError::thread)?;
        let (answer, answered) = oneshot::channel();
        let work = move || {
            let _permit = permit;
            let done = job(&|| !answer.is_canceled());
            drop(answer.send(done));
        };
        thread::Builder::new()
            .name("keyward-leaks".to_owned())
            .spawn(work)
            .map_err(AdminError::thread)?;
        answered.await.map_err(AdminError::thread)
    }

    fn ask(&'static self) -> oneshot::Receiver<Permit> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.is_canceled());
        state.waiting.push_back(sender);
        drop(state);
        self.start_next();
        receiver
    }

    fn start_next(&'static self) {
        let mut state = self.state();
        if state.running == AT_ONCE {
            return;
        }
        state.waiting.retain(|waiting| !waiting.is_canceled());
        let Some(next) = state.waiting.pop_front() else {
            return;
        };
        state.running += 1;
        drop(state);
        // If its future is dropped at this moment, the permit is returned and goes to the next in
        // line.
        drop(next.send(Permit(self)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit for one of the concurrent threads.
struct Permit(&'static Threads);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state().running -= 1;
        self.0.start_next();
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
        drop(THREADS.ask());
        assert_eq!(state(), (AT_ONCE, 2 * AT_ONCE));
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
    fn a_job_that_panics_is_an_error_and_makes_room() {
        static THREADS: Threads = Threads::new();
        for _ in 0..=AT_ONCE {
            let error = block_on(THREADS.run(|_| panic!("as the test wants"))).map(|(): ()| ());
            assert_eq!(error.unwrap_err().kind(), AdminErrorKind::Thread);
        }
        assert_eq!(block_on(THREADS.run(|_| 7)).unwrap(), 7);
    }
}
