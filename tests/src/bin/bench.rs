//! `kubevmm-bench`: from `kubectl apply` to a running domain, on a lab that is up.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use kubevmm_lab::Lab;

/// Measures five times how long it takes from `kubectl apply` of a VirtualMachine to libvirt's "started", the image
/// being on the host already, beside virsh's own define and start.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Directory of the lab's state
    #[arg(long, env = "LAB_DIR", default_value = "/run/kubevmm-lab")]
    lab: PathBuf,
    /// A ClusterVirtualMachineImage
    #[arg(long, default_value = "tiny")]
    image: String,
    /// Fail when the median is above this many seconds
    #[arg(long, value_name = "SECONDS")]
    at_most: Option<f32>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let lab = Box::leak(Box::new(Lab::attach(&options.lab)?));
    let report = kubevmm_tests::bench::measure(lab, &options.image)?;
    print!("{report}");
    if let Some(limit) = options.at_most {
        let median = report.median().as_secs_f32();
        ensure!(median <= limit, "the median of {median:.2} s is above {limit} s");
    }
    Ok(())
}
