//! `kubevmm-analyser`: libvirt's documents as YAML or JSON, and back.

use std::process::ExitCode;

use clap::Parser;
use kubevmm_analyser::cli::{self, Convert, EXIT_CODES};

/// Converts libvirt's XML documents to YAML or JSON and back, without loss.
#[derive(Parser)]
#[command(name = "kubevmm-analyser", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Convert,
}

fn main() -> ExitCode {
    cli::run(&Arguments::parse().command)
}
