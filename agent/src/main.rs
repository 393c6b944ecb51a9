//! The program `ship-agent`; see `ship-agent --help`.

fn main() -> std::process::ExitCode {
    ship_agent::cli::main()
}
