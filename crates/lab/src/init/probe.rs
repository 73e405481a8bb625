//! Asks the kernel, before anything is started, for what a lab cannot do without.
//!
//! It runs in the lab's first namespaces, which are empty: nothing of the host can be hit. The
//! order is that of likeliness to fail, so that the first refusal names the real cause.

use std::io;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use portolan_netlink::nft::{Batch, Family, NftError, Op, Socket, Table, TableRef};
use rustix::net::{AddressFamily, SocketType, socket};

use crate::error::LabError;
use crate::nets::Family as IpFamily;
use crate::privilege::Privilege;

/// Fails with the first thing that the kernel refuses.
pub(super) fn kernel(privilege: Privilege, families: &[IpFamily]) -> Result<(), LabError> {
    loopback_up().map_err(LabError::kernel("bring up a loopback interface"))?;
    for family in families {
        let (family, action) = match family {
            IpFamily::Ipv4 => (Family::Ip, "make an nf_tables table of IPv4"),
            IpFamily::Ipv6 => (Family::Ip6, "make an nf_tables table of IPv6"),
        };
        nf_tables(family).map_err(LabError::kernel(action))?;
    }
    in_child(|| {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
        scratch_mounts(privilege)
    })
    .map_err(LabError::kernel("mount tmpfs, proc and overlay"))
}

/// Sets IFF_UP on `lo`, which needs the right to administer the network.
fn loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let name = *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let up = libc::c_short::try_from(libc::IFF_UP).expect("IFF_UP is 1");
    // SAFETY: an ifreq is plain data, all zeroes is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which is there.
    let result = unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SIOCSIFFLAGS,
            &raw const request,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes and drops a table.
fn nf_tables(family: Family) -> io::Result<()> {
    let id = TableRef::new(family, "portolan-probe");
    let mut batch = Batch::new();
    batch.push(Op::AddTable(Table { id: id.clone(), comment: None }));
    batch.push(Op::DeleteTable(id));
    Socket::open().and_then(|mut socket| socket.commit(&batch)).map_err(|error| match error {
        NftError::Open(errno) | NftError::Send(errno) | NftError::Receive(errno) => errno.into(),
        NftError::NotPermitted(refusal) | NftError::Refused(refusal) => refusal.errno.into(),
        other => io::Error::other(other),
    })
}

/// The mounts of pods and nodes, on a scratch place, gone with the child's namespace.
fn scratch_mounts(privilege: Privilege) -> nix::Result<()> {
    let careful = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), careful, Some("mode=755"))?;
    for dir in ["/run/u", "/run/w"] {
        nix::unistd::mkdir(dir, nix::sys::stat::Mode::S_IRWXU)?;
    }
    let mut options = String::from("lowerdir=/etc,upperdir=/run/u,workdir=/run/w");
    if privilege == Privilege::UserNamespace {
        options.push_str(",userxattr");
    }
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    umount2("/etc", MntFlags::MNT_DETACH)
}

/// Runs `work` in a forked child and returns its error.
fn in_child(work: impl FnOnce() -> nix::Result<()>) -> io::Result<()> {
    use nix::sys::wait::{WaitStatus, waitpid};
    // SAFETY: the process has one thread, so the child may do whatever its parent could.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            let code = work().err().map_or(0, |errno| errno as i32);
            // SAFETY: ends the child, running nothing of the parent's.
            unsafe { libc::_exit(code) }
        }
        nix::unistd::ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
            other => Err(io::Error::other(format!("the probe ended with {other:?}"))),
        },
    }
}
