//! The program `ship-agent`; see `ship-agent --help`.

/// What a release with many names needed goes back to the system when it is done: glibc's allocator keeps it.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ship_agent::cli::main()
}
