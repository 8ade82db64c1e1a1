//! What a host decides about each of its domains. Pure.

use kube::ResourceExt as _;
use kubevmm_analyser::lower::HostFacts;
use kubevmm_analyser::spec::host_facts;
use kubevmm_api::Hypervisor;

use crate::error::Error;

/// What a host decides about each of its domains.
///
/// # Errors
/// [`Error::Refused`] while its executor has not told.
pub(crate) fn facts(hypervisor: &Hypervisor) -> Result<HostFacts, Error> {
    let status = hypervisor.status.as_ref();
    let accelerator = status.and_then(|status| status.accelerator.as_ref());
    let arch = status.and_then(|status| status.architecture.as_deref());
    match (accelerator, arch) {
        (Some(accelerator), Some(arch)) => Ok(host_facts(accelerator.kind, arch)),
        _ => Err(Error::Refused(format!(
            "the hypervisor {0} has not told its architecture and how it runs guests: see kubectl describe hypervisor {0}",
            hypervisor.name_any()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::documents;

    #[test]
    fn what_is_not_told_is_not_guessed() {
        let hosts = documents::<Hypervisor>("hypervisors.yaml");
        assert_eq!(facts(&hosts[0]).unwrap().arch, "x86_64");
        assert!(facts(&hosts[1]).unwrap_err().to_string().contains("hypervisor h2 has not told"));
    }
}
