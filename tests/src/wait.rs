//! Waiting: by name, with a deadline, and with what was seen last when it was in vain.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Seconds, as a duration: `within(30)`.
pub fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Looks until `look` gives `Ok(Some(_))`. An `Err` is a reason to look again, too: the API server may be away.
///
/// # Errors
/// After `limit`; the error says `what` was waited for and what the last look showed.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last;
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => last = String::new(),
            Err(error) => last = format!(": {error:#}"),
        }
        if Instant::now() > deadline {
            bail!("waited {} s in vain until {what}{last}", limit.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

/// Looks for as long as `time`; the first `Err` of `look` ends it.
///
/// # Errors
/// What `look` said, with `what` was to hold all the time.
pub fn all_the_time(what: &str, time: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Err(error) = look() {
            bail!("this was to hold for {} s: {what}: {error:#}", time.as_secs());
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn says_what_was_seen_last() {
        let error = wait_for("pigs fly", Duration::ZERO, || Err::<Option<()>, _>(anyhow!("they walk"))).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain until pigs fly: they walk");
    }

    #[test]
    fn an_error_is_looked_at_again() {
        let mut looks = 0;
        let found = wait_for("it is there", within(5), || {
            looks += 1;
            if looks < 3 { Err(anyhow!("not yet")) } else { Ok(Some(looks)) }
        });
        assert_eq!(found.unwrap(), 3);
    }
}
