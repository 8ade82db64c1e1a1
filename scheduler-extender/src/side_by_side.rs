//! Thousands of nodes are asked about at once, and the scheduler waits: all processors take part.

use std::thread;

/// Fewer are asked about sooner than another thread has started.
const WORTH_A_THREAD: usize = 500;

/// What `ask` says of each item, in their order.
pub(crate) fn each<T: Sync, R: Send>(items: &[T], ask: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(items.len() / WORTH_A_THREAD);
    if threads < 2 {
        return items.iter().map(ask).collect();
    }
    let ask = &ask;
    thread::scope(|scope| {
        let mut parts = items.chunks(items.len().div_ceil(threads));
        // This thread has a part, too.
        let own = parts.next().unwrap_or_default();
        let others: Vec<_> = parts.map(|part| scope.spawn(move || part.iter().map(ask).collect::<Vec<_>>())).collect();
        let mut answers: Vec<R> = own.iter().map(ask).collect();
        for other in others {
            match other.join() {
                Ok(part) => answers.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        answers
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_items() {
        for count in [0, 1, WORTH_A_THREAD, 7 * WORTH_A_THREAD + 1] {
            let items: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(each(&items, |item| item * 2), doubled);
        }
    }
}
