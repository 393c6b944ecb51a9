//! Linking the keeper small.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The loader reads every relocation of a program before it runs; packed, that is a page instead of forty, which the
    // keeper's promise of 3 MiB would not survive. Linkers that cannot do it say so and go on.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
