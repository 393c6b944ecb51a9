//! Users by name, as the system's name service knows them.

use std::ffi::{CStr, CString};
use std::io;

use thiserror::Error;

/// A user to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All group ids.
    pub groups: Vec<u32>,
    /// The home folder.
    pub home: String,
}

/// Why a user cannot be become.
#[derive(Debug, Error)]
pub enum AccountError {
    /// No such user.
    #[error("there is no user {name:?} on this host; create it or set another `user`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The keeper is not root.
    #[error(
        "the keeper runs as uid {own} and cannot start a process as {name:?}; run it as root or leave `user` out"
    )]
    NotAllowed {
        /// The name.
        name: String,
        /// The keeper's own uid.
        own: u32,
    },
    /// The name service failed.
    #[error("cannot look up user {name:?}")]
    LookUp {
        /// The name.
        name: String,
        /// What it said.
        source: io::Error,
    },
}

/// The account of `name`; none when that is the keeper's own user already.
///
/// # Errors
/// [`AccountError`].
pub fn account(name: &str) -> Result<Option<Account>, AccountError> {
    let unknown = || AccountError::Unknown {
        name: name.to_owned(),
    };
    let text = CString::new(name).map_err(|_| unknown())?;
    let found = look_up(&text)
        .map_err(|source| AccountError::LookUp {
            name: name.to_owned(),
            source,
        })?
        .ok_or_else(unknown)?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid == own {
        return Ok(None);
    }
    if own != 0 {
        return Err(AccountError::NotAllowed {
            name: name.to_owned(),
            own,
        });
    }
    Ok(Some(found))
}

fn look_up(name: &CStr) -> io::Result<Option<Account>> {
    let mut room = vec![0_u8; 1024];
    loop {
        match look_up_in(name, &mut room) {
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && room.len() < 1 << 20 => {
                room.resize(room.len() * 4, 0);
            }
            other => return other,
        }
    }
}

#[allow(unsafe_code, reason = "the name service is reached through libc only")]
fn look_up_in(name: &CStr, room: &mut [u8]) -> io::Result<Option<Account>> {
    // SAFETY: a passwd of zeros is valid (null pointers); it is read only after getpwnam_r filled it in.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut result = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, the size is that of `room`.
    let code = unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            &raw mut entry,
            room.as_mut_ptr().cast(),
            room.len(),
            &raw mut result,
        )
    };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    if result.is_null() {
        return Ok(None);
    }
    // SAFETY: on success pw_dir is null or a C string inside `room`.
    let home = unsafe {
        if entry.pw_dir.is_null() {
            String::new()
        } else {
            CStr::from_ptr(entry.pw_dir).to_string_lossy().into_owned()
        }
    };
    Ok(Some(Account {
        name: name.to_string_lossy().into_owned(),
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        groups: groups(name, entry.pw_gid),
        home,
    }))
}

#[allow(unsafe_code, reason = "the name service is reached through libc only")]
fn groups(name: &CStr, gid: u32) -> Vec<u32> {
    let mut groups = vec![0_u32; 64];
    for _ in 0..8 {
        let mut count = groups.len() as libc::c_int;
        // SAFETY: `groups` has room for `count` ids.
        let code = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        if code >= 0 {
            groups.truncate(count);
            return groups;
        }
        groups.resize(count.max(groups.len() * 2), 0);
    }
    vec![gid]
}
