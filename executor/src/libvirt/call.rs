//! Blocking C calls on threads of their own, a bounded number at a time, each with a time limit.
//!
//! libvirt's remote driver sends a request and blocks its thread until the answer is there. A call that is given up here
//! (time limit, or the caller's future is dropped) cannot be taken back: its thread stays in libvirt until the answer
//! comes or keepalive declares the connection dead, and its result is thrown away. Such a call gives its place back at
//! once, so it never blocks others; to bound the threads, no call starts ([`ErrorCode::Busy`]) while
//! `ABANDONED_PER_PLACE` times as many as there are places hang like that.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use super::error::{ErrorCode, Failure};

const ABANDONED_PER_PLACE: usize = 4;
const IDLE_THREAD_LIFETIME: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// Threads for blocking calls; they are started as needed and end when idle.
pub(super) struct CallPool {
    places: Semaphore,
    limit: usize,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    next: u64,
    /// Threads in a job.
    busy: usize,
    /// Threads that wait for one, the most recently used last.
    idle: Vec<(u64, mpsc::Sender<Job>)>,
}

impl CallPool {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let limit = limit.max(1);
        Arc::new(Self { places: Semaphore::new(limit), limit, threads: Mutex::default() })
    }

    /// Runs `call` on a thread and waits for it, `limit` at the most; waiting for a free place counts.
    pub(super) async fn run<T, F>(self: &Arc<Self>, limit: Duration, call: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Failure> + Send + 'static,
    {
        let timed_out = || Failure::new(ErrorCode::Timeout, format!("no answer within {} s", limit.as_secs_f32()));
        let work = async {
            let _place = self.places.acquire().await.map_err(|_| timed_out())?;
            if self.lock().busy >= self.limit * (1 + ABANDONED_PER_PLACE) {
                return Err(Failure::new(ErrorCode::Busy, "too many earlier calls still wait for libvirt"));
            }
            let (result, received) = oneshot::channel();
            self.spawn(move || {
                // The receiver is gone when the call was given up.
                drop(result.send(call()));
            })?;
            received.await.unwrap_or_else(|_| Err(Failure::new(ErrorCode::Internal, "the call's thread panicked")))
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Runs `job` on a thread of the pool, whatever the limit; for clean-up that must not block its caller.
    pub(super) fn spawn(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let mut threads = self.lock();
        let mut job: Job = Box::new(job);
        while let Some((_, thread)) = threads.idle.pop() {
            match thread.send(job) {
                Ok(()) => {
                    threads.busy += 1;
                    return Ok(());
                }
                Err(mpsc::SendError(returned)) => job = returned,
            }
        }
        let id = threads.next;
        let pool = Arc::clone(self);
        std::thread::Builder::new()
            .name("libvirt-call".to_owned())
            .spawn(move || pool.work(id, job))
            .map_err(|error| Failure::new(ErrorCode::Busy, format!("cannot start a thread: {error}")))?;
        threads.next += 1;
        threads.busy += 1;
        Ok(())
    }

    fn work(&self, id: u64, first: Job) {
        let (sender, jobs) = mpsc::channel();
        let mut job = first;
        loop {
            // A panic must not leak the thread's place in the count.
            drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
            {
                let mut threads = self.lock();
                threads.busy -= 1;
                if threads.idle.len() >= self.limit {
                    return;
                }
                threads.idle.push((id, sender.clone()));
            }
            job = match jobs.recv_timeout(IDLE_THREAD_LIFETIME) {
                Ok(next) => next,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let mut threads = self.lock();
                    if let Some(position) = threads.idle.iter().position(|(idle, _)| *idle == id) {
                        threads.idle.remove(position);
                        return;
                    }
                    // Somebody took this thread from the list just now: its job is in the channel.
                    match jobs.try_recv() {
                        Ok(next) => next,
                        Err(_) => return,
                    }
                }
            };
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn at_most_limit_calls_run_at_once() {
        let pool = CallPool::new(3);
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let calls = (0..30).map(|number| {
            let (pool, running, most) = (Arc::clone(&pool), Arc::clone(&running), Arc::clone(&most));
            async move {
                pool.run(LONG, move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(number)
                })
                .await
            }
        });
        let results = futures::future::join_all(calls).await;
        assert_eq!(results.into_iter().map(Result::unwrap).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_call_that_hangs_times_out_and_gives_its_place_back() {
        let pool = CallPool::new(1);
        let (release, hang) = mpsc::channel::<()>();
        let hung = pool.run(Duration::from_millis(20), move || {
            let _ = hang.recv();
            Ok(())
        });
        assert_eq!(hung.await.unwrap_err().code, ErrorCode::Timeout);
        assert_eq!(pool.run(LONG, || Ok(7)).await, Ok(7));
        drop(release);
    }

    #[tokio::test]
    async fn hung_calls_are_bounded() {
        let pool = CallPool::new(1);
        let mut releases = Vec::new();
        for _ in 0..=ABANDONED_PER_PLACE {
            let (release, hang) = mpsc::channel::<()>();
            releases.push(release);
            let hung = pool.run(Duration::from_millis(5), move || {
                let _ = hang.recv();
                Ok(())
            });
            assert_eq!(hung.await.unwrap_err().code, ErrorCode::Timeout);
        }
        assert_eq!(pool.run(LONG, || Ok(())).await.unwrap_err().code, ErrorCode::Busy);
        drop(releases);
        while pool.lock().busy > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(LONG, || Ok(1)).await, Ok(1));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_lives_on() {
        let pool = CallPool::new(1);
        let panicked = pool.run(LONG, || -> Result<(), Failure> { panic!("in a call") }).await;
        assert_eq!(panicked.unwrap_err().code, ErrorCode::Internal);
        assert_eq!(pool.run(LONG, || Ok(1)).await, Ok(1));
    }
}
