//! Whether a VM should run: the one rule that controller and executor share.
//!
//! ```text
//! Halted  off
//! Always  on
//! Manual  while a request waits: what it asks for
//!         otherwise a domain that runs goes on, whoever started it; one that does not is started
//!         after Start or Restart, unless it has ended since, and after an eviction that stopped it
//! ```

use crate::vm::{
    PowerAction, PowerRequest, PowerResult, RunStrategy, StopReason, VirtualMachineSpec, VirtualMachineStatus,
};

/// The request that has not been answered yet.
pub fn pending<'a>(spec: &'a VirtualMachineSpec, status: &VirtualMachineStatus) -> Option<&'a PowerRequest> {
    let request = spec.power_request.as_ref()?;
    let answered = status.last_power_request.as_ref().is_some_and(|last| last.id == request.id);
    (!answered).then_some(request)
}

/// Whether the VM should run, as far as its status tells. A VM that is being deleted never should; that is the caller's
/// to see.
pub fn should_run(spec: &VirtualMachineSpec, status: &VirtualMachineStatus) -> bool {
    should_run_while(spec, status, status.is_active())
}

/// As [`should_run`], for the one who knows whether the domain is `active`: the status may lag behind.
pub fn should_run_while(spec: &VirtualMachineSpec, status: &VirtualMachineStatus, active: bool) -> bool {
    match spec.run_strategy {
        RunStrategy::Always => true,
        RunStrategy::Halted => false,
        RunStrategy::Manual => match pending(spec, status) {
            Some(request) => request.action != PowerAction::Stop,
            // Nothing is asked: a change of the strategy alone stops nothing.
            None => active || ran_by_request(status) || was_evicted(status),
        },
    }
}

/// The last request started the VM, and the domain has not ended since.
fn ran_by_request(status: &VirtualMachineStatus) -> bool {
    let Some(last) = &status.last_power_request else { return false };
    let started =
        matches!(last.action, PowerAction::Start | PowerAction::Restart) && last.result != PowerResult::Failed;
    let ended_since =
        status.last_stop.as_ref().is_some_and(|stop| stop.request_id.as_deref() == Some(last.id.as_str()));
    started && !ended_since
}

/// The domain was stopped for the sake of its host, and nobody has asked for a stop since.
fn was_evicted(status: &VirtualMachineStatus) -> bool {
    let evicted = status.last_stop.as_ref().is_some_and(|stop| stop.reason == StopReason::Evicted);
    evicted && status.last_power_request.as_ref().is_none_or(|last| last.action != PowerAction::Stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::{DomainState, DomainStatus, LastPowerRequest, LastStop};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn spec(strategy: RunStrategy, request: Option<(&str, PowerAction)>) -> VirtualMachineSpec {
        VirtualMachineSpec {
            run_strategy: strategy,
            power_request: request.map(|(id, action)| PowerRequest { id: id.into(), action, force: false }),
            ..Default::default()
        }
    }

    fn status(last: Option<(&str, PowerAction)>, stopped_after: Option<&str>) -> VirtualMachineStatus {
        VirtualMachineStatus {
            last_power_request: last.map(|(id, action)| LastPowerRequest {
                id: id.into(),
                action,
                result: PowerResult::Completed,
            }),
            last_stop: stopped_after.map(|id| LastStop {
                reason: StopReason::GuestShutdown,
                time: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
                request_id: Some(id.into()),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn strategies() {
        use PowerAction::{Restart, Start, Stop};
        use RunStrategy::{Always, Halted, Manual};
        let nothing = VirtualMachineStatus::default();
        assert!(should_run(&spec(Always, None), &nothing));
        assert!(!should_run(&spec(Halted, None), &nothing));
        assert!(!should_run(&spec(Manual, None), &nothing));
        assert!(should_run(&spec(Manual, Some(("1", Start))), &nothing));
        assert!(should_run(&spec(Manual, Some(("1", Restart))), &nothing));
        assert!(should_run(&spec(Manual, Some(("1", Start))), &status(Some(("1", Start)), None)));
        assert!(!should_run(&spec(Manual, Some(("2", Stop))), &status(Some(("1", Start)), None)));
        assert!(!should_run(&spec(Manual, Some(("2", Stop))), &status(Some(("2", Stop)), Some("1"))));
    }

    #[test]
    fn a_manual_vm_of_which_nothing_is_asked_stays_as_it_is() {
        use PowerAction::{Restart, Start, Stop};
        // The request of now, the answered one, the one that was answered when the domain last ended; and whether the VM
        // should run while its domain is active, and while it is not.
        for (request, answered, ended, (active, inactive)) in [
            (None, None, None, (true, false)),
            (Some(("1", Start)), Some(("1", Start)), None, (true, true)),
            (Some(("1", Restart)), Some(("1", Restart)), Some("1"), (true, false)),
            (Some(("1", Stop)), Some(("1", Stop)), None, (true, false)),
            (Some(("2", Stop)), Some(("1", Start)), None, (false, false)),
            (Some(("2", Start)), Some(("1", Stop)), None, (true, true)),
        ] {
            let (spec, status) = (spec(RunStrategy::Manual, request), status(answered, ended));
            let both = (should_run_while(&spec, &status, true), should_run_while(&spec, &status, false));
            assert_eq!(both, (active, inactive), "{request:?} {answered:?} {ended:?}");
        }
    }

    #[test]
    fn a_manual_vm_that_was_evicted_is_started_again() {
        use PowerAction::{Start, Stop};
        let manual = spec(RunStrategy::Manual, None);
        for (answered, runs) in [(None, true), (Some(("1", Start)), true), (Some(("1", Stop)), false)] {
            let mut status = status(answered, Some("1"));
            status.last_stop.as_mut().unwrap().reason = StopReason::Evicted;
            assert_eq!(should_run_while(&manual, &status, false), runs, "{answered:?}");
        }
    }

    #[test]
    fn the_status_tells_whether_the_domain_runs() {
        let manual = spec(RunStrategy::Manual, None);
        for (state, runs) in [(DomainState::Running, true), (DomainState::Shutoff, false)] {
            let domain = DomainStatus {
                name: "shop.web".into(),
                uuid: "u".into(),
                epoch: 1,
                state,
                generation: None,
                start_time: None,
                autostart: false,
                transient: false,
            };
            let status = VirtualMachineStatus { domain: Some(domain), ..Default::default() };
            assert_eq!(should_run(&manual, &status), runs, "{state:?}");
        }
    }

    #[test]
    fn a_manual_vm_stays_off_after_its_guest_has_ended() {
        use PowerAction::Start;
        let manual = spec(RunStrategy::Manual, Some(("2", Start)));
        assert!(!should_run(&manual, &status(Some(("2", Start)), Some("2"))));
        assert!(should_run(&manual, &status(Some(("2", Start)), Some("1"))), "an older stop does not count");
        assert!(should_run(&manual, &status(Some(("1", Start)), Some("1"))), "a new request starts it again");
    }
}
