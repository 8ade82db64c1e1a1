//! Run strategies, power requests, and why a domain stopped.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kubevmm_tests::{Space, Vm};
use nix::sys::signal::Signal;

kubevmm_tests::stories! { alone: false;
    always_starts_again_after_the_guests_own_shutdown,
    a_guest_that_listens_shuts_itself_down,
    manual_runs_by_request_only,
    halted_is_off_and_refuses_requests,
    a_guests_reboot_keeps_its_domain,
    a_host_request_is_neither_success_nor_failure,
    a_killed_qemu_is_a_crash,
    a_domain_destroyed_by_somebody_else,
    a_guest_that_ignores_the_button_is_destroyed_after_its_grace_period,
}

fn always_starts_again_after_the_guests_own_shutdown(space: &Space) -> Result<()> {
    let vm = space.guest("web").apply()?;
    let first = vm.boots()?;
    vm.in_guest("poweroff")?;
    vm.last_stop_is("GuestShutdown")?;
    vm.boots_again_after(&first)?;

    vm.patch("{runStrategy: Halted}")?;
    vm.is_off()?;
    vm.last_stop_is("Requested")?;
    vm.stays_off(3)?;

    vm.patch("{runStrategy: Always}")?;
    vm.is_ready()?;
    vm.vanishes()
}

fn a_guest_that_listens_shuts_itself_down(space: &Space) -> Result<()> {
    let vm = space.guest("web").apply()?;
    vm.boots()?;
    // What runs in the guest's own shutdown only.
    vm.ssh("sed -i \"2i touch /root/shut-down\" /etc/rc.stop && cat /etc/rc.stop")?;
    ensure!(vm.file("/root/shut-down").is_err(), "the mark is there before the shutdown");
    vm.patch("{runStrategy: Halted}")?;
    vm.is_off()?;
    vm.last_stop_is("Requested")?;
    let how = vm.has_ended_by()?;
    ensure!(how == "shutdown", "the guest listens, and its domain was {how}");

    vm.patch("{runStrategy: Always}")?;
    vm.boots()?;
    vm.file("/root/shut-down").context("the guest did not shut down").map(drop)
}

fn manual_runs_by_request_only(space: &Space) -> Result<()> {
    let vm = space.guest("web").with("spec: {runStrategy: Manual}").apply()?;
    vm.is_off()?;
    vm.stays_off(3)?;

    vm.request("first", "Start")?;
    vm.boots()?;
    vm.in_guest("poweroff")?;
    vm.last_stop_is("GuestShutdown")?;
    vm.is_off()?;
    vm.stays_off(3)?;

    let answer = vm.request("second", "Start")?;
    ensure!(answer["status"]["lastPowerRequest"]["result"] == "Completed", "{}", answer["status"]);
    vm.is_ready()?;
    let before = vm.qemu()?;
    vm.patch("{powerRequest: {id: third, action: Restart, force: true}}")?;
    vm.wait("has another QEMU", Duration::from_secs(60), |_| vm.qemu().is_ok_and(|now| now.pid != before.pid))?;
    vm.is_ready()?;

    vm.patch("{powerRequest: {id: fourth, action: Stop, force: true}}")?;
    vm.is_off()?;
    vm.last_stop_is("Requested")?;
    let answer = vm.request("fifth", "Stop")?;
    ensure!(answer["status"]["lastPowerRequest"]["result"] == "AlreadyDone", "{}", answer["status"]);
    vm.vanishes()
}

fn halted_is_off_and_refuses_requests(space: &Space) -> Result<()> {
    let vm = space.blank("halted").with("spec: {runStrategy: Halted}").apply()?;
    vm.is_off()?;
    vm.stays_off(3)?;
    let refusal = vm.patch("{powerRequest: {id: a, action: Start}}").unwrap_err().to_string();
    ensure!(refusal.contains("runStrategy") && refusal.contains("Manual"), "no way out is named: {refusal}");

    let vm = space.blank("always").apply()?;
    vm.is_ready()?;
    let refusal = vm.patch("{powerRequest: {id: a, action: Stop}}").unwrap_err().to_string();
    ensure!(refusal.contains("Halted"), "no way out is named: {refusal}");
    let before = vm.qemu()?;
    vm.request("a", "Restart")?;
    vm.is_ready()?;
    ensure!(vm.qemu()?.pid != before.pid, "the same QEMU after a restart");
    // An answered request is no reason against another strategy.
    vm.patch("{runStrategy: Halted}")?;
    vm.is_off().map(drop)
}

fn a_guests_reboot_keeps_its_domain(space: &Space) -> Result<()> {
    let vm = space.guest("web").apply()?;
    let first = vm.boots()?;
    let qemu = vm.qemu()?;
    vm.in_guest("reboot")?;
    vm.boots_again_after(&first)?;
    ensure!(vm.qemu()?.pid == qemu.pid, "a reboot is no stop, but QEMU is another one");
    let status = &vm.is_ready()?["status"];
    ensure!(status["lastStop"].is_null(), "a reboot is no stop: {}", status["lastStop"]);
    Ok(())
}

/// One VM that shall always run, and one that was started by request.
fn always_and_manual(space: &Space) -> Result<(Vm, Vm)> {
    let always = space.blank("always").apply()?;
    let manual = space.blank("manual").with("spec: {runStrategy: Manual}").apply()?;
    manual.request("start", "Start")?;
    always.is_ready()?;
    manual.is_ready()?;
    Ok((always, manual))
}

/// After a stop for `reason`, the one runs again and the other stays off.
fn one_returns_and_one_stays_off(always: &Vm, manual: &Vm, reason: &str) -> Result<()> {
    always.last_stop_is(reason)?;
    manual.last_stop_is(reason)?;
    always.is_ready()?;
    always.qemu()?;
    manual.is_off()?;
    manual.stays_off(3)
}

fn a_host_request_is_neither_success_nor_failure(space: &Space) -> Result<()> {
    let (always, manual) = always_and_manual(space)?;
    always.signal_qemu(Signal::SIGTERM)?;
    manual.signal_qemu(Signal::SIGTERM)?;
    one_returns_and_one_stays_off(&always, &manual, "HostRequest")
}

fn a_killed_qemu_is_a_crash(space: &Space) -> Result<()> {
    let (always, manual) = always_and_manual(space)?;
    always.signal_qemu(Signal::SIGKILL)?;
    manual.signal_qemu(Signal::SIGKILL)?;
    one_returns_and_one_stays_off(&always, &manual, "Crashed")
}

fn a_domain_destroyed_by_somebody_else(space: &Space) -> Result<()> {
    let (always, manual) = always_and_manual(space)?;
    always.host()?.virsh(["destroy", &always.domain()])?;
    manual.host()?.virsh(["destroy", &manual.domain()])?;
    one_returns_and_one_stays_off(&always, &manual, "Destroyed")
}

fn a_guest_that_ignores_the_button_is_destroyed_after_its_grace_period(space: &Space) -> Result<()> {
    let vm = space.blank("deaf").with("spec: {terminationGracePeriodSeconds: 5}").apply()?;
    vm.is_ready()?;
    let asked = Instant::now();
    vm.patch("{runStrategy: Halted}")?;
    vm.wait("is Stopping", Duration::from_secs(5), |vm| vm["status"]["printableStatus"] == "Stopping")?;
    vm.is_off()?;
    let took = asked.elapsed().as_secs_f32();
    ensure!((5.0..15.0).contains(&took), "5 s of grace took {took} s");
    vm.last_stop_is("Requested")?;
    let how = vm.has_ended_by()?;
    ensure!(how == "destroyed", "the guest does not listen, and its domain has ended by {how}");
    Ok(())
}
