//! `shipctl completion`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Outcome;
use crate::error::Exit;
use crate::ui::Ui;

/// Print a shell's script that completes verbs and options
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl completion bash > ~/.local/share/bash-completion/completions/shipctl
  shipctl completion zsh > \"${fpath[1]}/_shipctl\"
  shipctl completion fish > ~/.config/fish/completions/shipctl.fish")]
pub struct Completion {
    shell: Shell,
}

pub fn run(verb: &Completion, ui: &Ui) -> Outcome {
    let mut script = Vec::new();
    let mut command = crate::args::Args::command();
    clap_complete::generate(verb.shell, &mut command, "shipctl", &mut script);
    ui.line(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Done)
}
