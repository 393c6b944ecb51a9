//! The list of leaves by which hosts check what mirrors and other hosts gave them; mirrors keep it as a file.

use ship_model::leaves::{Leaves, LeavesMaker};

use super::{frozen, writes_the_same};

#[test]
fn a_list_of_leaves_is_written_and_read_as_it_was() {
    let object: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let digest = *blake3::hash(&object).as_bytes();
    let mut maker = LeavesMaker::new(object.len() as u64);
    maker.update(&object);
    writes_the_same("leaves-1", &maker.finish(digest).unwrap().encode());
    let leaves = Leaves::read(digest, &frozen("leaves-1")).unwrap();
    assert_eq!(
        (leaves.len(), leaves.count(), leaves.leaf_len()),
        (200_000, 4, 65_536)
    );
    assert!(leaves.is(3, &object[3 * 65_536..]));
}
