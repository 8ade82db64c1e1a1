//! Pauses between attempts.

use std::time::Duration;

use tokio::time::Instant;

/// Attempts that fail are made with growing pauses: the first one, doubling up to the longest.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0, not_before: None }
    }

    /// Notes a failure; the next attempt has to wait.
    pub(crate) fn fail(&mut self, now: Instant) {
        let pause = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause);
    }

    /// The next attempt has to wait for this time, without being a failure.
    pub(crate) fn hold(&mut self, now: Instant, pause: Duration) {
        self.not_before = Some(now + pause);
    }

    /// Forgets everything.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    /// When the next attempt may be made, if that is after `now`.
    pub(crate) fn wait(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|&instant| instant > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let now = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        assert_eq!(backoff.wait(now), None);
        let pauses: Vec<_> = (0..11)
            .map(|_| {
                backoff.fail(now);
                (backoff.wait(now).unwrap() - now).as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff.wait(now + Duration::from_secs(300)), None, "the pause is over");
        backoff.reset();
        assert_eq!(backoff.wait(now), None);
    }
}
