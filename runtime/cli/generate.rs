//! `completions` and `man`: files for packages and shells.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::{Failure, Outcome};
use crate::output::Output;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary completions bash > ~/.local/share/bash-completion/completions/lapidary
  lapidary completions zsh > ~/.zfunc/_lapidary
  lapidary completions fish > ~/.config/fish/completions/lapidary.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

pub(crate) fn completions(arguments: &Completions, output: &mut Output) -> Outcome {
    let mut command = Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "lapidary", output.writer());
    Ok(())
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary man ~/.local/share/man/man1 && man lapidary-import")]
pub(crate) struct Man {
    /// Directory for one page for each command; it is made
    directory: PathBuf,
}

pub(crate) fn man(arguments: &Man, output: &mut Output) -> Outcome {
    let directory = &arguments.directory;
    fs::create_dir_all(directory).map_err(Failure::io("making", directory))?;
    clap_mangen::generate_to(Arguments::command(), directory)
        .map_err(Failure::io("writing to", directory))?;
    output.line(format_args!("wrote manual pages to {}", directory.display()))
}
