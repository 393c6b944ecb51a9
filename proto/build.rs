//! Generates the wire types with a compiler written in Rust: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "ship/v1/model.proto",
        "ship/v1/store.proto",
        "ship/v1/local.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".ship.v1.UploadChunk.data")
        .bytes(".ship.v1.UploadDeltaChunk.data")
        .bytes(".ship.v1.GiveChunk.data")
        .bytes(".ship.v1.Piece.data")
        .bytes(".ship.v1.LeavesReply.leaves")
        .bytes(".ship.v1.BeginChunk.manifest")
        .compile_fds(descriptors)?;
    Ok(())
}
