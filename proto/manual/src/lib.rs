//! A program's man pages and shell completions, from the arguments that it takes.
//!
//! Every program of Kapok has a hidden command `manual FOLDER` that ends here, so that what is
//! packaged says what the packaged program takes. Packages are made of that folder's files.
//!
//! Absent on purpose: pages written by hand. What a page should say belongs into `--help`.

use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

/// The shells whose completions are packaged.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

/// What the hidden command takes.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Where the files go.
    folder: PathBuf,
}

impl Arguments {
    /// Writes the pages of `program` and of all its commands, for this section of the manual, into
    /// the folder's `man`, and its completions into `completions`. What is there is replaced.
    ///
    /// # Errors
    ///
    /// When the folder can't be written.
    pub fn write(&self, program: Command, section: Section) -> io::Result<()> {
        let name = program.get_name().to_owned();
        let pages = self.folder.join("man");
        let completions = self.folder.join("completions");
        fs::create_dir_all(&pages)?;
        fs::create_dir_all(&completions)?;
        for shell in SHELLS {
            clap_complete::generate_to(shell, &mut program.clone(), &name, &completions)?;
        }
        // Its pages would say the same as the others.
        let mut program = program.disable_help_subcommand(true);
        program.build();
        page(&program, section, &pages)
    }
}

/// A section of the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// 1: what everybody runs.
    Commands,
    /// 8: what administrators run, and services.
    Administration,
}

impl Section {
    /// Its number.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Commands => "1",
            Self::Administration => "8",
        }
    }
}

/// The page of a command, and of those below it.
fn page(command: &Command, section: Section, folder: &Path) -> io::Result<()> {
    let below = command.get_subcommands();
    for command in below.filter(|command| !command.is_hide_set()) {
        page(command, section, folder)?;
    }
    let page = Man::new(command.clone())
        .section(section.as_str())
        .manual("Kapok");
    let mut file = BufWriter::new(fs::File::create(folder.join(page.get_filename()))?);
    page.render(&mut file)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_hidden_ones_have_none() {
        let folder = tempfile::tempdir().unwrap();
        let program = Command::new("tree")
            .version("1.2.3")
            .about("Grows")
            .subcommand(Command::new("leaf").about("Falls"))
            .subcommand(Command::new("manual").hide(true));
        let arguments = Arguments {
            folder: folder.path().to_owned(),
        };
        arguments.write(program, Section::Administration).unwrap();
        let files = |name: &str| {
            let entries = fs::read_dir(folder.path().join(name)).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(files("man"), ["tree-leaf.8", "tree.8"]);
        assert_eq!(files("completions"), ["_tree", "tree.bash", "tree.fish"]);
        let page = fs::read_to_string(folder.path().join("man/tree.8")).unwrap();
        for words in [".TH tree 8", "Grows", "tree\\-leaf(8)", "1.2.3"] {
            assert!(page.contains(words), "no {words:?} in {page}");
        }
        assert!(!page.contains("manual"), "{page}");
    }
}
