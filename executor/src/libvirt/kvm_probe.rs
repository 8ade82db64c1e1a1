//! Runs a few instructions of guest code on `/dev/kvm`.
//!
//! This is not libvirt's API, but unsafe code lives in this module only: guest memory has to be mapped and handed to
//! the kernel by its address, and a hanging `KVM_RUN` can only be ended by a signal to its thread.

use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How long and how often a probe that hangs is asked to end.
const KICK_PAUSE: Duration = Duration::from_millis(20);
const KICKS: u32 = 50;

/// Runs the guest code and waits for it, `limit` at the most; blocking. The error says what is wrong, for people.
pub(crate) fn probe(device: &Path, limit: Duration) -> Result<(), String> {
    probe_code(device, guest::CODE, limit)
}

fn probe_code(device: &Path, code: &'static [u8], limit: Duration) -> Result<(), String> {
    let device = device.to_owned();
    let (sender, result) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("kvm-probe".to_owned())
        // Nobody listens any more when the probe hung for good.
        .spawn(move || drop(sender.send(run(&device, code))))
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

/// The guest: 64-bit kernel mode as any operating system uses it. Real mode proves nothing: a kernel module that emulates
/// guest code instead of running it gets through that, and then fails or crawls where a guest's kernel begins.
#[cfg(target_arch = "x86_64")]
mod guest {
    pub(super) const MEMORY_BYTES: usize = 0x5000;
    pub(super) const PAGE_TABLE_4: usize = 0x1000;
    const PAGE_TABLE_3: usize = 0x2000;
    const PAGE_TABLE_2: usize = 0x3000;
    pub(super) const CODE_ADDRESS: usize = 0x4000;
    pub(super) const PORT: u16 = 0x3f8;
    /// What [`CODE`] writes to the port: the low byte of 1 + 1 + 10,000,000.
    pub(super) const ANSWER: u8 = 0x82;

    const PRESENT_AND_WRITABLE: u64 = 0x3;
    const LARGE_PAGE: u64 = 0x80;

    /// Page tables that map the first 2 MiB to themselves.
    pub(super) const PAGE_TABLES: [(usize, u64); 3] = [
        (PAGE_TABLE_4, PAGE_TABLE_3 as u64 | PRESENT_AND_WRITABLE),
        (PAGE_TABLE_3, PAGE_TABLE_2 as u64 | PRESENT_AND_WRITABLE),
        (PAGE_TABLE_2, LARGE_PAGE | PRESENT_AND_WRITABLE),
    ];

    /// Vector instructions, which emulators lack, and a loop that takes milliseconds on a CPU and much longer than the
    /// time limit in an emulator.
    pub(super) const CODE: &[u8] = &[
        0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
        0x66, 0x48, 0x0f, 0x6e, 0xc0, // movq xmm0, rax
        0x66, 0x0f, 0xd4, 0xc0, // paddq xmm0, xmm0
        0x66, 0x48, 0x0f, 0x7e, 0xc0, // movq rax, xmm0
        0xb9, 0x80, 0x96, 0x98, 0x00, // mov ecx, 10000000
        0x48, 0xff, 0xc0, // inc rax
        0xff, 0xc9, // dec ecx
        0x75, 0xf9, // jnz -7
        0x66, 0xba, 0xf8, 0x03, // mov dx, PORT
        0xee, // out dx, al
        0xf4, // hlt
    ];

    /// Never halts.
    #[cfg(test)]
    pub(super) const SPIN: &[u8] = &[0xeb, 0xfe]; // jmp -2
}

#[cfg(target_arch = "x86_64")]
fn run(device: &Path, code: &[u8]) -> Result<(), String> {
    use kvm_ioctls::{Kvm, VcpuExit};

    let say = |what: &str, error: kvm_ioctls::Error| format!("{what}: {}", std::io::Error::from(error));
    let path =
        device.to_str().and_then(|path| std::ffi::CString::new(path).ok()).ok_or("the device's path is not usable")?;
    let kvm = Kvm::new_with_path(&path).map_err(|error| say("cannot open the device", error))?;
    // Declared before the virtual machine, so that it is unmapped after it is gone.
    let memory = GuestMemory::new(code)?;
    let vm = kvm.create_vm().map_err(|error| say("cannot create a virtual machine (KVM_CREATE_VM)", error))?;
    // Without it an Intel host may not run a guest; elsewhere it does nothing.
    vm.set_tss_address(0xfffb_d000).map_err(|error| say("KVM_SET_TSS_ADDR", error))?;
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: guest::MEMORY_BYTES as u64,
        userspace_addr: memory.address as u64,
    };
    // SAFETY: the region is `memory`, which outlives `vm`.
    unsafe { vm.set_user_memory_region(region) }.map_err(|error| say("KVM_SET_USER_MEMORY_REGION", error))?;
    let mut vcpu = vm.create_vcpu(0).map_err(|error| say("cannot create a CPU (KVM_CREATE_VCPU)", error))?;
    let cpuid = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
    let cpuid = cpuid.map_err(|error| say("KVM_GET_SUPPORTED_CPUID", error))?;
    vcpu.set_cpuid2(&cpuid).map_err(|error| say("KVM_SET_CPUID2", error))?;
    enter_long_mode(&vcpu)?;

    match vcpu.run().map_err(|error| say("cannot run guest code (KVM_RUN)", error))? {
        VcpuExit::IoOut(guest::PORT, [guest::ANSWER]) => {}
        VcpuExit::InternalError => return Err("this KVM cannot run 64-bit kernel code (internal error)".to_owned()),
        exit => return Err(format!("guest code ended with {exit:?} where it should have written to a port")),
    }
    match vcpu.run().map_err(|error| say("cannot go on running guest code (KVM_RUN)", error))? {
        VcpuExit::Hlt => Ok(()),
        exit => Err(format!("guest code ended with {exit:?} where it should have halted")),
    }
}

/// Sets the registers as a boot loader leaves them for a 64-bit kernel.
#[cfg(target_arch = "x86_64")]
fn enter_long_mode(vcpu: &kvm_ioctls::VcpuFd) -> Result<(), String> {
    const CR0_PE_MP_ET_NE_WP_PG: u64 = 0x8001_0033;
    const CR4_PAE_OSFXSR_OSXMMEXCPT: u64 = 0x620;
    const EFER_LME_LMA: u64 = 0x500;
    const TYPE_CODE: u8 = 11;
    const TYPE_DATA: u8 = 3;

    let say = |what: &str, error: kvm_ioctls::Error| format!("{what}: {}", std::io::Error::from(error));
    let segment = |selector, type_, is_code: bool| kvm_bindings::kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: u8::from(!is_code),
        s: 1,
        l: u8::from(is_code),
        g: 1,
        ..Default::default()
    };
    let mut sregs = vcpu.get_sregs().map_err(|error| say("KVM_GET_SREGS", error))?;
    sregs.cs = segment(8, TYPE_CODE, true);
    let data = segment(16, TYPE_DATA, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.cr0, sregs.cr4, sregs.efer) = (CR0_PE_MP_ET_NE_WP_PG, CR4_PAE_OSFXSR_OSXMMEXCPT, EFER_LME_LMA);
    sregs.cr3 = guest::PAGE_TABLE_4 as u64;
    vcpu.set_sregs(&sregs).map_err(|error| say("KVM_SET_SREGS", error))?;
    let mut regs = vcpu.get_regs().map_err(|error| say("KVM_GET_REGS", error))?;
    (regs.rip, regs.rflags) = (guest::CODE_ADDRESS as u64, 2);
    vcpu.set_regs(&regs).map_err(|error| say("KVM_SET_REGS", error))
}

#[cfg(not(target_arch = "x86_64"))]
mod guest {
    pub(super) const CODE: &[u8] = &[];
}

#[cfg(not(target_arch = "x86_64"))]
fn run(_: &Path, _: &[u8]) -> Result<(), String> {
    Err(format!("there is no guest code to try on {}", std::env::consts::ARCH))
}

/// The guest's memory, with its page tables and code.
#[cfg(target_arch = "x86_64")]
struct GuestMemory {
    address: *mut libc::c_void,
}

#[cfg(target_arch = "x86_64")]
impl GuestMemory {
    fn new(code: &[u8]) -> Result<Self, String> {
        let room = guest::MEMORY_BYTES - guest::CODE_ADDRESS;
        let code = code.get(..code.len().min(room)).unwrap_or_default();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice; tables and code lie within it, and the
        // tables' addresses are multiples of 8.
        unsafe {
            let address = libc::mmap(std::ptr::null_mut(), guest::MEMORY_BYTES, protection, flags, -1, 0);
            if address == libc::MAP_FAILED {
                return Err(format!("cannot map guest memory: {}", std::io::Error::last_os_error()));
            }
            for (at, entry) in guest::PAGE_TABLES {
                address.byte_add(at).cast::<u64>().write(entry);
            }
            let target = address.byte_add(guest::CODE_ADDRESS).cast::<u8>();
            std::ptr::copy_nonoverlapping(code.as_ptr(), target, code.len());
            Ok(Self { address })
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's, and the virtual machine that used it is gone.
        unsafe { libc::munmap(self.address, guest::MEMORY_BYTES) };
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn guest_code_that_never_halts_is_ended() {
        let before = Instant::now();
        let why = probe_code(Path::new("/dev/kvm"), guest::SPIN, Duration::from_millis(100)).unwrap_err();
        assert!(before.elapsed() < Duration::from_secs(10));
        // Without a KVM that gets this far there is nothing to end.
        let started = !why.contains("cannot") && !why.starts_with("KVM_");
        assert!(!started || why == "guest code did not halt within 0.1 s", "{why}");
    }
}
