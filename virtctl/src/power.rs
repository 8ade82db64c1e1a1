//! What `start`, `stop` and `restart` write, by run strategy. Pure.
//!
//! ```text
//!           Always                    Manual                  Halted
//! start     -                         powerRequest Start      runStrategy: Always
//! stop      runStrategy: Halted       powerRequest Stop       -
//! restart   powerRequest Restart      powerRequest Restart    refused
//! ```
//!
//! `--force` goes with a powerRequest only: a run strategy has no such word.

use kubevmm_api::VirtualMachine;
use kubevmm_api::condition::{self, READY};
use kubevmm_api::power::should_run;
use kubevmm_api::vm::{PowerAction, RunStrategy};
use serde_json::{Value, json};

/// What a person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Make it run.
    Start,
    /// Make it stop.
    Stop,
    /// Stop it and make it run.
    Restart,
}

/// What is to be done for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Write a JSON merge patch of one field.
    Write {
        /// The patch.
        patch: Value,
        /// `id` of the power request in it.
        request: Option<String>,
        /// What is reported once it is written.
        said: String,
    },
    /// The object says already what is asked for.
    Nothing {
        /// What is reported.
        said: String,
    },
    /// The object's state does not allow it; why, and what to do.
    Refuse(String),
}

/// Decides. `id` is a fresh id for a power request; `program` is the name to use in advice.
pub(crate) fn decide(verb: Verb, vm: &VirtualMachine, force: bool, id: &str, program: &str) -> Decision {
    let name = vm.metadata.name.as_deref().unwrap_or_default();
    let namespace = vm.metadata.namespace.as_deref().unwrap_or_default();
    if vm.metadata.deletion_timestamp.is_some() {
        return Decision::Refuse(format!("{name} is being deleted: wait until it is gone, then create it anew"));
    }
    if let Some(existing) = vm.spec.observed() {
        let node = &existing.node_name;
        return Decision::Refuse(format!(
            "{name} is only watched (spec.management is Observe): use virsh on its host {node}"
        ));
    }
    let status = vm.status.clone().unwrap_or_default();
    let active = status.is_active();
    let up = if condition::is_true(&status.conditions, READY) { "running" } else { "starting" };
    let down = if active { "stopping" } else { "stopped" };
    let wants_to_run = should_run(&vm.spec, &status);
    let strategy = vm.spec.run_strategy;
    match (verb, strategy) {
        (Verb::Start, RunStrategy::Always) => nothing(&format!("is {up} already: spec.runStrategy is Always")),
        (Verb::Start, RunStrategy::Halted) => run_strategy(
            RunStrategy::Always,
            "starting: spec.runStrategy changed from Halted to Always; it is also started again after every stop",
        ),
        (Verb::Start, RunStrategy::Manual) if wants_to_run => nothing(&format!("is {up} already")),
        (Verb::Start, RunStrategy::Manual) => {
            request(PowerAction::Start, false, id, "starting: spec.powerRequest Start")
        }

        (Verb::Stop, RunStrategy::Always) if force => Decision::Refuse(no_force(name, namespace, program)),
        (Verb::Stop, RunStrategy::Always) => run_strategy(
            RunStrategy::Halted,
            &format!(
                "stopping: spec.runStrategy changed from Always to Halted; `{program} start {name}` changes it back"
            ),
        ),
        (Verb::Stop, RunStrategy::Halted) if force && active => Decision::Refuse(no_force(name, namespace, program)),
        (Verb::Stop, RunStrategy::Halted) => nothing(&format!("is {down} already: spec.runStrategy is Halted")),
        (Verb::Stop, RunStrategy::Manual) if !(wants_to_run || force && active) => {
            nothing(&format!("is {down} already: no power request asks for it to run"))
        }
        (Verb::Stop, RunStrategy::Manual) => {
            request(PowerAction::Stop, force, id, &format!("stopping: spec.powerRequest Stop{}", forced(force)))
        }

        (Verb::Restart, RunStrategy::Halted) => Decision::Refuse(format!(
            "spec.runStrategy of {name} is Halted: there is nothing to restart; `{program} start {name}` starts it"
        )),
        (Verb::Restart, RunStrategy::Always | RunStrategy::Manual) => {
            request(PowerAction::Restart, force, id, &format!("restarting: spec.powerRequest Restart{}", forced(force)))
        }
    }
}

fn nothing(said: &str) -> Decision {
    Decision::Nothing { said: said.into() }
}

fn run_strategy(strategy: RunStrategy, said: &str) -> Decision {
    Decision::Write { patch: json!({"spec": {"runStrategy": strategy}}), request: None, said: said.into() }
}

fn request(action: PowerAction, force: bool, id: &str, said: &str) -> Decision {
    // A merge patch keeps what it does not name: without the null, the force of an earlier request would stay.
    let force = if force { Value::Bool(true) } else { Value::Null };
    Decision::Write {
        patch: json!({"spec": {"powerRequest": {"id": id, "action": action, "force": force}}}),
        request: Some(id.into()),
        said: said.into(),
    }
}

fn forced(force: bool) -> &'static str {
    if force { ", without waiting for the guest" } else { "" }
}

fn no_force(name: &str, namespace: &str, program: &str) -> String {
    format!(
        "--force needs spec.runStrategy Manual (Always and Halted stop by the strategy, which has no force): give the \
         guest no time instead: kubectl -n {namespace} patch virtualmachines.kubevmm.io {name} --type=merge -p \
         '{{\"spec\":{{\"terminationGracePeriodSeconds\":0}}}}' && {program} stop -n {namespace} {name}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(spec: &str, status: &str) -> VirtualMachine {
        let mut vm: VirtualMachine = serde_yaml_ng::from_str(&format!(
            "apiVersion: kubevmm.io/v1beta1\nkind: VirtualMachine\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n"
        ))
        .unwrap();
        vm.status = Some(serde_yaml_ng::from_str(status).unwrap());
        vm
    }

    const ON: &str = "{domain: {name: shop.web, uuid: u, epoch: 1, state: Running}}";
    const RAN: &str = "{lastPowerRequest: {id: a, action: Start, result: Completed}, \
                       domain: {name: shop.web, uuid: u, epoch: 1, state: Running}}";
    const ENDED: &str = "{lastPowerRequest: {id: a, action: Start, result: Completed}, \
                         lastStop: {reason: GuestShutdown, time: '2026-01-01T00:00:00Z', requestID: a}}";
    const STOPPING: &str = "{lastPowerRequest: {id: a, action: Start, result: Completed}, \
                            domain: {name: shop.web, uuid: u, epoch: 1, state: ShuttingDown}}";
    const MANUAL: &str = "{runStrategy: Manual, powerRequest: {id: a, action: Start}}";
    const MANUAL_STOP: &str = "{runStrategy: Manual, powerRequest: {id: b, action: Stop}}";

    /// `patch`, `nothing` or `refused`.
    fn outcome(verb: Verb, spec: &str, status: &str, force: bool) -> String {
        match decide(verb, &vm(spec, status), force, "new", "virtctl") {
            Decision::Write { patch, request, .. } => {
                assert_eq!(request.is_some(), patch["spec"].get("powerRequest").is_some());
                patch.to_string()
            }
            Decision::Nothing { .. } => "nothing".into(),
            Decision::Refuse(_) => "refused".into(),
        }
    }

    #[test]
    fn what_is_only_watched_is_neither_started_nor_stopped() {
        let observed = "{management: Observe, existingDomain: {nodeName: h1, uuid: u}}";
        for verb in [Verb::Start, Verb::Stop, Verb::Restart] {
            assert_eq!(outcome(verb, observed, ON, false), "refused");
        }
    }

    #[test]
    fn what_is_written_by_verb_and_strategy() {
        use Verb::{Restart, Start, Stop};
        let power = |action: &str, force: &str| {
            format!(r#"{{"spec":{{"powerRequest":{{"id":"new","action":"{action}","force":{force}}}}}}}"#)
        };
        let strategy = |to: &str| format!(r#"{{"spec":{{"runStrategy":"{to}"}}}}"#);
        for (verb, spec, status, force, expected) in [
            (Start, "{}", "{}", false, "nothing".into()),
            (Start, "{runStrategy: Halted}", "{}", false, strategy("Always")),
            (Start, "{runStrategy: Manual}", "{}", false, power("Start", "null")),
            (Start, MANUAL, "{}", false, "nothing".into()),
            (Start, MANUAL, RAN, false, "nothing".into()),
            (Start, MANUAL, ENDED, false, power("Start", "null")),
            (Start, MANUAL_STOP, STOPPING, false, power("Start", "null")),
            (Stop, "{}", ON, false, strategy("Halted")),
            (Stop, "{}", ON, true, "refused".into()),
            (Stop, "{runStrategy: Halted}", ON, false, "nothing".into()),
            (Stop, "{runStrategy: Halted}", ON, true, "refused".into()),
            (Stop, "{runStrategy: Halted}", "{}", true, "nothing".into()),
            (Stop, MANUAL, RAN, false, power("Stop", "null")),
            (Stop, MANUAL, RAN, true, power("Stop", "true")),
            (Stop, MANUAL, ENDED, false, "nothing".into()),
            (Stop, MANUAL, ENDED, true, "nothing".into()),
            (Stop, MANUAL_STOP, STOPPING, false, "nothing".into()),
            (Stop, MANUAL_STOP, STOPPING, true, power("Stop", "true")),
            (Restart, "{}", ON, false, power("Restart", "null")),
            (Restart, "{}", ON, true, power("Restart", "true")),
            (Restart, MANUAL, RAN, false, power("Restart", "null")),
            (Restart, "{runStrategy: Manual}", "{}", false, power("Restart", "null")),
            (Restart, "{runStrategy: Halted}", "{}", false, "refused".into()),
        ] {
            assert_eq!(outcome(verb, spec, status, force), expected, "{verb:?} {spec} {status} force={force}");
        }
    }

    #[test]
    fn a_change_of_the_run_strategy_is_said() {
        for (verb, spec, words) in [
            (Verb::Stop, "{}", "from Always to Halted"),
            (Verb::Start, "{runStrategy: Halted}", "from Halted to Always"),
        ] {
            let Decision::Write { said, .. } = decide(verb, &vm(spec, "{}"), false, "new", "virtctl") else {
                panic!("{verb:?} writes")
            };
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refusal = |verb, spec, force| match decide(verb, &vm(spec, ON), force, "new", "kubectl virt") {
            Decision::Refuse(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refusal(Verb::Restart, "{runStrategy: Halted}", false),
            "spec.runStrategy of web is Halted: there is nothing to restart; `kubectl virt start web` starts it"
        );
        assert!(refusal(Verb::Stop, "{}", true).contains("terminationGracePeriodSeconds"));
    }

    #[test]
    fn nothing_is_written_to_a_vm_that_is_being_deleted() {
        let mut vm = vm("{runStrategy: Halted}", "{}");
        vm.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        for verb in [Verb::Start, Verb::Stop, Verb::Restart] {
            assert!(matches!(decide(verb, &vm, false, "new", "virtctl"), Decision::Refuse(_)));
        }
    }
}
