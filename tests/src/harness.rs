//! Runs the stories: quiet ones side by side, disruptive ones alone, each in a namespace of its own.

use std::process::ExitCode;
use std::sync::{Condvar, Mutex, PoisonError, RwLock};
use std::time::Instant;

use anyhow::Result;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use crate::cluster::Cluster;
use crate::dump;
use crate::space::Space;

/// Stories at a time. A guest's boot takes a processor for 5 s, and there may be two.
const AT_A_TIME: usize = 3;

/// Quiet stories hold it together, a disruptive one alone.
static PEACE: RwLock<()> = RwLock::new(());
/// Whose turn it is among the disruptive stories.
static NEXT: Mutex<usize> = Mutex::new(0);
static NEXT_CHANGED: Condvar = Condvar::new();
static TIMES: Mutex<Vec<(f32, &'static str)>> = Mutex::new(Vec::new());

/// A test that reads like a story.
#[derive(Clone, Copy)]
pub struct Story {
    /// What it shows, in words with dashes.
    pub name: &'static str,
    /// Whether it disturbs others: restarts daemons, kills hosts.
    pub alone: bool,
    /// The story.
    pub tell: fn(&Space) -> Result<()>,
}

/// Lists of stories: `quiet! { fn name(space) { ... } }` without the repetition.
#[macro_export]
macro_rules! stories {
    (alone: $alone:literal; $($story:ident),* $(,)?) => {
        /// The stories of this file.
        pub(crate) fn stories() -> Vec<$crate::harness::Story> {
            vec![$($crate::harness::Story { name: stringify!($story), alone: $alone, tell: $story }),*]
        }
    };
}

/// Runs the stories that the command line asks for; the last lines say how long they took.
pub fn run(stories: Vec<Story>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    // A filter may be several, with commas between.
    let filter = if arguments.exact { None } else { arguments.filter.take() };
    let fits =
        |story: &&Story| filter.as_ref().is_none_or(|filter| filter.split(',').any(|part| story.name.contains(part)));
    let mut turns = 0..;
    let wanted: Vec<Trial> =
        stories.iter().filter(fits).map(|story| trial(*story, if story.alone { turns.next() } else { None })).collect();
    if arguments.list {
        return libtest_mimic::run(&arguments, wanted).exit_code();
    }
    let cluster = match Cluster::up() {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("the cluster does not come up: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion: Conclusion = libtest_mimic::run(&arguments, wanted);
    print_times();
    if let Err(error) = cluster.down() {
        eprintln!("the lab does not go down: {error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// `turn` is the place of a disruptive story among its like.
fn trial(story: Story, turn: Option<usize>) -> Trial {
    Trial::test(story.name, move || {
        let result = if let Some(turn) = turn {
            let _turn = Turn::wait_for(turn);
            let _alone = PEACE.write().unwrap_or_else(PoisonError::into_inner);
            tell(story)
        } else {
            let _together = PEACE.read().unwrap_or_else(PoisonError::into_inner);
            tell(story)
        };
        result.map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// The disruptive stories' order: the last ones look at what all others have left.
struct Turn;

impl Turn {
    fn wait_for(turn: usize) -> Self {
        let now = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let _mine = NEXT_CHANGED.wait_while(now, |now| *now != turn).unwrap_or_else(PoisonError::into_inner);
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *NEXT.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        NEXT_CHANGED.notify_all();
    }
}

fn tell(story: Story) -> Result<()> {
    let start = Instant::now();
    let namespace = format!("t-{}", story.name.replace('_', "-"));
    let namespace = kubevmm_api::names::fit(&namespace);
    let space = Space::open(&namespace)?;
    let told = (story.tell)(&space);
    if let Err(error) = &told {
        let directory = dump::write(space.cluster, story.name, &namespace, &format!("{error:#}\n"));
        eprintln!("{}: see {}", story.name, directory.display());
    }
    let closed = space.close();
    if let (Ok(()), Err(error)) = (&told, &closed) {
        let directory = dump::write(space.cluster, story.name, &namespace, &format!("{error:#}\n"));
        eprintln!("{}: see {}", story.name, directory.display());
    }
    TIMES.lock().unwrap_or_else(PoisonError::into_inner).push((start.elapsed().as_secs_f32(), story.name));
    told.and(closed)
}

fn print_times() {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    times.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (seconds, name) in times {
        println!("{seconds:7.1} s  {name}");
    }
}
