//! Wrong usage, told in one line.

use std::{io, process::ExitCode};

use clap::error::ErrorKind;

use crate::failure::{one_line, tell};

/// Prints what clap has to say: help and version as they are, an error as one line.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(2),
            _ => ExitCode::SUCCESS,
        };
    }
    tell(&summary(&error.render().to_string()));
    ExitCode::from(2)
}

/// How paragraphs begin that `--help` shows, or that point to it.
const SHOWN_BY_HELP: [&str; 3] = ["For more information", "Commands:", "Options:"];

/// Clap's paragraphs without the usage, which `--help` shows.
fn summary(rendered: &str) -> String {
    let mut parts = Vec::new();
    let mut help = "see `counterfoil --help`".to_owned();
    for paragraph in rendered.split("\n\n").map(one_line) {
        if let Some(usage) = paragraph.strip_prefix("Usage: counterfoil ") {
            let is_command = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
            let commands: Vec<_> = usage.split(' ').take_while(is_command).collect();
            help = ["see `counterfoil", &commands.join(" "), "--help`"].join(" ").replace("  ", " ");
        } else if !paragraph.is_empty() && !SHOWN_BY_HELP.iter().any(|start| paragraph.starts_with(start)) {
            parts.push(paragraph.strip_prefix("error: ").unwrap_or(&paragraph).to_owned());
        }
    }
    parts.push(help);
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_explained_in_one_line_with_what_was_meant() {
        let rendered = "error: unexpected argument '--sapce' found\n\n  tip: a similar argument exists: '--space'\n\n\
                        Usage: counterfoil cert node --space <SPACE> <STORE>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            summary(rendered),
            "unexpected argument '--sapce' found; tip: a similar argument exists: '--space'; \
             see `counterfoil cert node --help`"
        );
    }

    #[test]
    fn a_missing_subcommand_is_not_answered_with_the_whole_help() {
        let rendered =
            "Make certificates\n\nUsage: counterfoil cert <COMMAND>\n\nCommands:\n  ca  Make\n\nOptions:\n  -h\n";
        assert_eq!(summary(rendered), "Make certificates; see `counterfoil cert --help`");
    }

    #[test]
    fn an_error_without_usage_points_to_the_help_of_all() {
        assert_eq!(
            summary("error: unrecognized subcommand 'x'\n\nFor more information, try '--help'."),
            "unrecognized subcommand 'x'; see `counterfoil --help`"
        );
    }
}
