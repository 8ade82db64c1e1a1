//! The stories, on a lab of their own. `cargo test --test e2e -- [FILTER] [--list]`.
//!
//! Environment: `KUBEVMM_SEEDS=N` for more random faults; `KUBEVMM_KEEP_LAB=1` leaves the lab up and uses it again.

#![allow(clippy::unwrap_used)]

mod analyser;
#[path = "../../analyser/tests/apt/mod.rs"]
mod apt;
mod bad_input;
mod basics;
mod closing;
#[path = "../../analyser/tests/corpus/mod.rs"]
mod corpus;
mod dead_host;
mod deletion;
mod domain;
mod drain;
mod existing_volume;
mod external_host;
mod hand_over;
mod import;
mod inventory_of_hosts;
mod landing;
mod lost_store;
mod manage;
mod many_hosts;
mod placement;
mod power;
mod random_faults;
mod scheduling;
mod scores;
mod security;
mod storage;
mod survival;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Quiet ones first and side by side, then disruptive ones one after the other, and at the end a look around.
    let all = [
        bad_input::stories(),
        power::stories(),
        basics::stories(),
        storage::stories(),
        existing_volume::stories(),
        deletion::stories(),
        placement::stories(),
        scheduling::stories(),
        security::stories(),
        domain::stories(),
        import::stories(),
        manage::stories(),
        analyser::stories(),
        tools::stories(),
        inventory_of_hosts::stories(),
        basics::alone::stories(),
        inventory_of_hosts::alone::stories(),
        survival::stories(),
        hand_over::stories(),
        external_host::stories(),
        drain::stories(),
        scheduling::alone::stories(),
        landing::stories(),
        scores::stories(),
        many_hosts::stories(),
        random_faults::stories(),
        lost_store::stories(),
        dead_host::stories(),
        closing::stories(),
    ];
    kubevmm_tests::harness::run(all.concat())
}
