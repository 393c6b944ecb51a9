//! Numbers that make a request one request, however often it is sent.

/// 16 random bytes. The kernel's generator cannot fail once the machine is up; were it to, the time and
/// the process's number still tell two requests apart.
pub fn request_id() -> Vec<u8> {
    let mut id = [0_u8; 16];
    let filled = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
    if filled != Ok(id.len()) {
        id[..8].copy_from_slice(&crate::clock::now_ms().to_le_bytes());
        id[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    }
    id.to_vec()
}
