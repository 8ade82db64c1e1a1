//! Waiting by watches, with a line that says for what.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use kube::runtime::{WatchStreamExt as _, watcher};
use kubevmm_api::VirtualMachine;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::duration;
use crate::error::Error;
use crate::goal::{Goal, Progress, progress};
use crate::program;

/// A VM and the state that it shall reach.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// The state.
    pub(crate) goal: Goal,
}

/// Waits until each target has reached its goal, cannot reach it, or the time is over; answers in their order.
pub(crate) async fn wait(
    cluster: &Cluster,
    targets: &[Target],
    timeout: Duration,
) -> Vec<Result<VirtualMachine, Error>> {
    let deadline = Instant::now() + timeout;
    let mut line = Line::new(targets.len());
    let mut done: BTreeMap<usize, Result<VirtualMachine, Error>> = BTreeMap::new();
    let mut reasons = vec![String::from("the API server has not answered yet"); targets.len()];
    let watches = targets.iter().enumerate().map(|(index, target)| {
        let api = cluster.api::<VirtualMachine>(&target.namespace);
        watcher::watch_object(api, &target.name).default_backoff().map(move |seen| (index, seen)).boxed()
    });
    let mut events = stream::select_all(watches);
    while done.len() < targets.len() {
        let (index, seen) = tokio::select! {
            event = events.next() => match event {
                Some(event) => event,
                None => break,
            },
            () = tokio::time::sleep_until(deadline) => break,
            _ = tokio::signal::ctrl_c() => {
                for (index, target) in targets.iter().enumerate() {
                    done.entry(index).or_insert_with(|| Err(interrupted(target)));
                }
                break;
            }
        };
        if done.contains_key(&index) {
            continue;
        }
        let target = &targets[index];
        match judge(cluster, target, seen) {
            Step::Done(result) => {
                done.insert(index, result.map(|vm| *vm));
            }
            Step::Waiting(why) => {
                line.show(&target.name, &why);
                reasons[index] = why;
            }
        }
    }
    line.clear();
    let result = |(index, target): (usize, &Target)| {
        done.remove(&index).unwrap_or_else(|| Err(timed_out(target, timeout, &reasons[index])))
    };
    targets.iter().enumerate().map(result).collect()
}

enum Step {
    Done(Result<Box<VirtualMachine>, Error>),
    Waiting(String),
}

fn judge(cluster: &Cluster, target: &Target, seen: Result<Option<VirtualMachine>, watcher::Error>) -> Step {
    match seen {
        Ok(Some(vm)) => match progress(&target.goal, &vm) {
            Progress::Reached => Step::Done(Ok(Box::new(vm))),
            Progress::Waiting(why) => Step::Waiting(why),
            Progress::Failed(why) => Step::Done(Err(Error::Failed(format!("{}: {why}", target.name)))),
        },
        Ok(None) => Step::Done(Err(Error::NotFound {
            what: format!("virtual machine {:?}", target.name),
            hint: "it has been deleted while this command waited".into(),
        })),
        Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) => {
            match cluster.failure(error) {
                // Neither will change by waiting.
                error @ (Error::Forbidden(_) | Error::Unauthorized | Error::NotInstalled) => Step::Done(Err(error)),
                error => Step::Waiting(format!("{error}; trying again")),
            }
        }
        Err(error) => Step::Waiting(format!("{}; trying again", crate::error::one_line(&error.to_string()))),
    }
}

fn timed_out(target: &Target, timeout: Duration, why: &str) -> Error {
    Error::TimedOut {
        after: duration::human(i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX)),
        waiting_for: format!("{}: {why}", target.name),
        program: program(),
        name: describe_arguments(target),
    }
}

fn interrupted(target: &Target) -> Error {
    Error::Interrupted { program: program(), name: describe_arguments(target) }
}

fn describe_arguments(target: &Target) -> String {
    format!("-n {} {}", target.namespace, target.name)
}

/// The line of progress on standard error: one that is rewritten on a terminal, otherwise one for each change.
struct Line {
    terminal: bool,
    several: bool,
    shown: BTreeMap<String, String>,
}

impl Line {
    fn new(targets: usize) -> Self {
        Self { terminal: std::io::stderr().is_terminal(), several: targets > 1, shown: BTreeMap::new() }
    }

    fn show(&mut self, name: &str, why: &str) {
        if self.shown.get(name).is_some_and(|shown| shown == why) {
            return;
        }
        self.shown.insert(name.into(), why.into());
        let more = if self.several { format!(" ({} waited for)", self.shown.len()) } else { String::new() };
        let text = format!("waiting for {name}{}: {why}", if self.terminal { more.as_str() } else { "" });
        let mut err = std::io::stderr().lock();
        // The line is a courtesy: a standard error that is closed stops nothing.
        let _ = if self.terminal {
            let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
            write!(err, "\r\x1b[2K{}", fit(&text, width.saturating_sub(1))).and_then(|()| err.flush())
        } else {
            writeln!(err, "{text}")
        };
    }

    fn clear(&self) {
        if self.terminal && !self.shown.is_empty() {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K").and_then(|()| err.flush());
        }
    }
}

/// Cuts `text` to `width` characters: a line that wraps cannot be rewritten.
fn fit(text: &str, width: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.chars().count() <= width {
        return clean;
    }
    let mut cut: String = clean.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goal::State;
    use crate::testing::Server;

    #[test]
    fn a_line_fits_its_terminal() {
        assert_eq!(fit("waiting", 7), "waiting");
        assert_eq!(fit("waiting", 6), "waiti…");
        assert_eq!(fit("a\x1b[2Kb", 80), "a [2Kb");
        assert_eq!(fit("waiting", 0), "…");
    }

    fn list(status: &str) -> (u16, String) {
        let vm = format!(
            r#"{{"apiVersion": "kubevmm.io/v1beta1", "kind": "VirtualMachine", "spec": {{}}, "status": {status},
                "metadata": {{"name": "web", "namespace": "shop", "resourceVersion": "1", "uid": "u"}}}}"#
        );
        let items = if status.is_empty() { String::new() } else { vm };
        let head =
            r#""apiVersion": "kubevmm.io/v1beta1", "kind": "VirtualMachineList", "metadata": {"resourceVersion": "1"}"#;
        (200, format!(r#"{{{head}, "items": [{items}]}}"#))
    }

    async fn waited(server: &Server, timeout: Duration) -> Result<VirtualMachine, Error> {
        let goal = Goal { state: State::Running, generation: 2, request: None };
        let target = Target { namespace: "shop".into(), name: "web".into(), goal };
        wait(&server.cluster("shop"), &[target], timeout).await.remove(0)
    }

    const READY: &str = r#"{"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True",
        "reason": "Running", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}"#;

    #[tokio::test]
    async fn a_goal_that_is_reached_ends_the_wait() {
        let server = Server::new(|_, _| list(READY));
        let vm = waited(&server, Duration::from_secs(30)).await.unwrap();
        assert_eq!(vm.metadata.name.as_deref(), Some("web"));
        assert!(server.requests()[0].contains("fieldSelector=metadata.name%3Dweb"), "{:?}", server.requests());
    }

    #[tokio::test]
    async fn a_vm_that_is_gone_ends_the_wait() {
        let server = Server::new(|_, _| list(""));
        assert_eq!(waited(&server, Duration::from_secs(30)).await.unwrap_err().exit_code(), 3);
    }

    #[tokio::test]
    async fn what_waiting_cannot_change_ends_the_wait() {
        let server = Server::new(|_, _| (403, r#"{"kind": "Status", "code": 403, "message": "no"}"#.into()));
        assert_eq!(waited(&server, Duration::from_secs(30)).await.unwrap_err().exit_code(), 7);
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_is_tried_again_until_the_time_is_over() {
        let server = Server::new(|_, _| (500, r#"{"kind": "Status", "code": 500, "message": "etcd is away"}"#.into()));
        let error = waited(&server, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("etcd is away"), "{error}");
    }
}
