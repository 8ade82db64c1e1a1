//! Runs a few instructions of guest code on `/dev/kvm`.
//!
//! This is not libvirt's API, but unsafe code lives in this module only: guest memory has to be mapped and handed to
//! the kernel by its address, and a hanging `KVM_RUN` can only be ended by a signal to its thread.

use std::ffi::CString;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How long and how often a probe that hangs is asked to end.
const KICK_PAUSE: Duration = Duration::from_millis(20);
const KICKS: u32 = 50;

/// Runs the guest code and waits for it, `limit` at the most; blocking. The error says what is wrong, for people.
pub(crate) fn probe(device: &Path, limit: Duration) -> Result<(), String> {
    let device = device.to_owned();
    let (sender, result) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("kvm-probe".to_owned())
        // Nobody listens any more when the probe hung for good.
        .spawn(move || drop(sender.send(run(&device))))
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    match result.recv_timeout(limit) {
        Ok(outcome) => return outcome,
        Err(RecvTimeoutError::Disconnected) => return Err("the probe panicked".to_owned()),
        Err(RecvTimeoutError::Timeout) => {}
    }
    let hangs = format!("guest code did not halt within {} s", limit.as_secs_f32());
    ignore_kick();
    for _ in 0..KICKS {
        // SAFETY: the thread is neither joined nor detached, so its handle is valid even if it has ended.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGURG) };
        if result.recv_timeout(KICK_PAUSE) != Err(RecvTimeoutError::Timeout) {
            return Err(hangs);
        }
    }
    Err(format!("{hangs}, and the kernel does not let go of its thread"))
}

/// Gives SIGURG, which nothing here uses and which is ignored by default, a handler that does nothing, so that it
/// interrupts the system call of the thread that gets it.
fn ignore_kick() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the struct is plain data; the handler does nothing, so it is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGURG, &raw const action, std::ptr::null_mut());
    }
}

/// Where in the guest's memory the code lies, and the memory's size: one page.
#[cfg(target_arch = "x86_64")]
const CODE_ADDRESS: u64 = 0x1000;
#[cfg(target_arch = "x86_64")]
const MEMORY_BYTES: usize = 0x1000;

/// In 16-bit real mode: add two registers, write the sum to a port, halt.
#[cfg(target_arch = "x86_64")]
const CODE: [u8; 8] = [
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0x00, 0xd8, // add al, bl
    0xee, // out dx, al
    0xf4, // hlt
    0xf4, // hlt
];

#[cfg(target_arch = "x86_64")]
fn run(device: &Path) -> Result<(), String> {
    use kvm_ioctls::{Kvm, VcpuExit};

    let say = |what: &str, error: kvm_ioctls::Error| format!("{what}: {}", std::io::Error::from(error));
    let path = device.to_str().and_then(|path| CString::new(path).ok()).ok_or("the device's path is not usable")?;
    let kvm = Kvm::new_with_path(&path).map_err(|error| say("cannot open the device", error))?;
    // Declared before the virtual machine, so that it is unmapped after it is gone.
    let memory = GuestMemory::new()?;
    let vm = kvm.create_vm().map_err(|error| say("cannot create a virtual machine (KVM_CREATE_VM)", error))?;
    // Without it an Intel host cannot run real mode; elsewhere it does nothing.
    vm.set_tss_address(0xfffb_d000).map_err(|error| say("KVM_SET_TSS_ADDR", error))?;
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: CODE_ADDRESS,
        memory_size: MEMORY_BYTES as u64,
        userspace_addr: memory.address as u64,
    };
    // SAFETY: the region is `memory`, which outlives `vm`.
    unsafe { vm.set_user_memory_region(region) }.map_err(|error| say("KVM_SET_USER_MEMORY_REGION", error))?;
    let mut vcpu = vm.create_vcpu(0).map_err(|error| say("cannot create a CPU (KVM_CREATE_VCPU)", error))?;
    let mut sregs = vcpu.get_sregs().map_err(|error| say("KVM_GET_SREGS", error))?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).map_err(|error| say("KVM_SET_SREGS", error))?;
    let mut regs = vcpu.get_regs().map_err(|error| say("KVM_GET_REGS", error))?;
    (regs.rip, regs.rax, regs.rbx, regs.rflags) = (CODE_ADDRESS, 2, 3, 2);
    vcpu.set_regs(&regs).map_err(|error| say("KVM_SET_REGS", error))?;

    match vcpu.run().map_err(|error| say("cannot run guest code (KVM_RUN)", error))? {
        VcpuExit::IoOut(0x3f8, [5]) => {}
        exit => return Err(format!("guest code ended with {exit:?} where it should have written 5 to a port")),
    }
    match vcpu.run().map_err(|error| say("cannot go on running guest code (KVM_RUN)", error))? {
        VcpuExit::Hlt => Ok(()),
        exit => Err(format!("guest code ended with {exit:?} where it should have halted")),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn run(_: &Path) -> Result<(), String> {
    Err(format!("there is no guest code to try on {}", std::env::consts::ARCH))
}

/// A page with the guest's code.
#[cfg(target_arch = "x86_64")]
struct GuestMemory {
    address: *mut libc::c_void,
}

#[cfg(target_arch = "x86_64")]
impl GuestMemory {
    fn new() -> Result<Self, String> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice; the code fits into it.
        unsafe {
            let address = libc::mmap(std::ptr::null_mut(), MEMORY_BYTES, protection, flags, -1, 0);
            if address == libc::MAP_FAILED {
                return Err(format!("cannot map guest memory: {}", std::io::Error::last_os_error()));
            }
            std::ptr::copy_nonoverlapping(CODE.as_ptr(), address.cast::<u8>(), CODE.len());
            Ok(Self { address })
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's, and the virtual machine that used it is gone.
        unsafe { libc::munmap(self.address, MEMORY_BYTES) };
    }
}
