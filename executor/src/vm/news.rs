//! The Events of a VM that follow from the step from one status to the next. Pure.

use kubevmm_api::condition::{RESTART_REQUIRED, SYNCED, find, is_true};
use kubevmm_api::vm::{LastPowerRequest, PowerResult, VirtualMachineStatus};

/// An Event to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// Somebody may have to act on it.
    pub warning: bool,
    /// What was tried.
    pub action: String,
    /// What became of it.
    pub reason: String,
    /// The same in words.
    pub note: String,
}

/// What is new in `after`. The notes tell no more than the reasons: a series of Events keeps the first one's note.
pub(super) fn news(before: &VirtualMachineStatus, after: &VirtualMachineStatus) -> Vec<News> {
    // What is only known again is no news.
    let restart = is_true(&after.conditions, RESTART_REQUIRED)
        && find(&before.conditions, RESTART_REQUIRED).is_none_or(|before| before.status == "False");
    let restart = restart.then(|| News {
        warning: false,
        action: "Update".into(),
        reason: RESTART_REQUIRED.into(),
        note: format!("the running domain differs from the spec: the condition {RESTART_REQUIRED} names the fields"),
    });
    let changed = find(&after.conditions, SYNCED).filter(|synced| synced.status == "False");
    let changed = changed.filter(|synced| find(&before.conditions, SYNCED).is_none_or(|it| it.reason != synced.reason));
    let changed = changed.map(|synced| News {
        warning: true,
        action: "Watch".into(),
        reason: synced.reason.clone(),
        note: format!("somebody has changed the domain on its host: the condition {SYNCED} says what"),
    });
    let answered = after.last_power_request.as_ref();
    let id = |status: &VirtualMachineStatus| status.last_power_request.as_ref().map(|last| last.id.clone());
    let answered = answered.filter(|last| id(before).as_ref() != Some(&last.id)).map(answer);
    restart.into_iter().chain(changed).chain(answered).collect()
}

fn answer(last: &LastPowerRequest) -> News {
    let action = format!("{:?}", last.action);
    let what = match last.result {
        PowerResult::Completed => "was carried out",
        PowerResult::AlreadyDone => "had nothing to do",
        PowerResult::Failed => "could not be carried out: the condition Ready says why",
    };
    News {
        warning: last.result == PowerResult::Failed,
        reason: format!("PowerRequest{:?}", last.result),
        note: format!("the power request {action} {what}"),
        action,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: &str, after: &str) -> Vec<String> {
        let status = |yaml: &str| serde_yaml_ng::from_str(yaml).unwrap();
        let line = |news: News| format!("{}{}", if news.warning { "! " } else { "" }, news.reason);
        news(&status(before), &status(after)).into_iter().map(line).collect()
    }

    #[test]
    fn the_need_of_a_restart_is_told_once() {
        let needed = |status: &str, message: &str| {
            format!(
                "{{conditions: [{{type: RestartRequired, status: '{status}', reason: R, message: {message}, lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}"
            )
        };
        let (no, yes) = (needed("False", "a"), needed("True", "a"));
        assert_eq!(told("{}", &yes), ["RestartRequired"]);
        assert_eq!(told(&no, &yes), ["RestartRequired"]);
        assert_eq!(told(&yes, &needed("True", "b")), Vec::<String>::new());
        assert_eq!(told(&yes, &no), Vec::<String>::new());
        assert_eq!(told(&needed("Unknown", "a"), &yes), Vec::<String>::new(), "libvirt was away meanwhile");
    }

    #[test]
    fn a_change_by_somebody_else_is_told_once() {
        let synced = |status: &str, reason: &str, message: &str| {
            format!(
                "{{conditions: [{{type: Synced, status: '{status}', reason: {reason}, message: {message}, lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}"
            )
        };
        let (as_defined, changed) = (synced("True", "AsDefined", "a"), synced("False", "DomainChanged", "a"));
        assert_eq!(told(&as_defined, &changed), ["! DomainChanged"]);
        assert_eq!(told(&changed, &synced("False", "DomainChanged", "b")), Vec::<String>::new());
        assert_eq!(told(&changed, &synced("False", "DomainUndefined", "b")), ["! DomainUndefined"]);
        assert_eq!(told(&changed, &as_defined), Vec::<String>::new());
    }

    #[test]
    fn each_answer_to_a_power_request_is_told_once() {
        let answered =
            |id: &str, result: &str| format!("{{lastPowerRequest: {{id: {id}, action: Restart, result: {result}}}}}");
        let first = answered("a", "Completed");
        assert_eq!(told("{}", &first), ["PowerRequestCompleted"]);
        assert_eq!(told(&first, &first), Vec::<String>::new());
        assert_eq!(told(&first, &answered("b", "AlreadyDone")), ["PowerRequestAlreadyDone"]);
        assert_eq!(told(&first, &answered("b", "Failed")), ["! PowerRequestFailed"]);
    }
}
