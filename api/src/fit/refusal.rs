//! Why a host cannot take a VM.

/// What stands in the way, the nearest miss last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is no Hypervisor, or its executor does not call it ready.
    NotReady,
    /// The executor does not answer.
    Silent,
    /// An administrator wants no VM placed there.
    Maintenance,
    /// The domain needs KVM.
    Kvm,
    /// The CPU model, or a feature of it.
    Cpu,
    /// The machine type.
    Machine,
    /// The firmware.
    Firmware,
    /// The back end of the TPM.
    Tpm,
    /// A pool is missing or not ready.
    Pool,
    /// A network is missing or not ready.
    Network,
    /// The VM belongs to the host of the domain that it was imported from.
    Home,
    /// A disk's volume lies on another host.
    Data,
    /// A device is missing or another VM has it.
    Device,
    /// A pool has not enough space.
    Space,
    /// As many virtual CPUs as the administrator allows are promised.
    FreeCpu,
}

impl Why {
    /// The reason of the condition `Scheduled`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotReady | Self::Silent => "NoHypervisor",
            Self::Maintenance => "HostInMaintenance",
            Self::Kvm => "NoHostWithKVM",
            Self::Cpu => "NoHostWithCPU",
            Self::Machine => "NoHostWithMachine",
            Self::Firmware => "NoHostWithFirmware",
            Self::Tpm => "NoHostWithTPM",
            Self::Pool => "NoHostWithPool",
            Self::Network => "NoHostWithNetwork",
            Self::Home | Self::Data => "DataElsewhere",
            Self::Device => "NoHostWithDevice",
            Self::Space => "NoHostWithSpace",
            Self::FreeCpu => "NoHostWithFreeCPU",
        }
    }

    /// The host itself is away: nothing of the VM stands in the way.
    pub(super) fn is_of_host(self) -> bool {
        matches!(self, Self::NotReady | Self::Silent | Self::Maintenance)
    }
}

/// Why a host cannot take a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What stands in the way.
    pub why: Why,
    /// It would not if other VMs went away: preempting them may help.
    pub resolvable: bool,
    /// For people: what is wrong there, and the way out. It does not name the host, so that the same of many hosts is
    /// told once.
    pub message: String,
}

impl Refusal {
    /// What no preemption mends.
    pub(super) fn lasting(why: Why, message: impl Into<String>) -> Self {
        Self { why, resolvable: false, message: message.into() }
    }

    /// The reason of the condition `Scheduled`.
    pub fn reason(&self) -> &'static str {
        self.why.reason()
    }
}
