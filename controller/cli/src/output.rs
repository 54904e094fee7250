//! Where answers go: tables for people, JSON or YAML for programs, CSV for spreadsheets.
//!
//! A reader that goes away (`kapok … | head`) ends the printing, never the work: writes become
//! no-ops and loops ask [`Out::is_closed`].

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use kapok_types::Timestamp;
use serde::Serialize;

use crate::{error::Error, view::View};

mod csv;

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For people, with more columns.
    Wide,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
    /// For spreadsheets.
    Csv,
}

impl Format {
    /// Reads a format's name.
    ///
    /// # Errors
    ///
    /// In words, when it isn't one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        <Self as clap::ValueEnum>::from_str(text, false)
            .map_err(|_| "must be table, wide, json, yaml or csv".to_owned())
    }

    /// Whether people read it.
    pub(crate) fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Standard output in the chosen format.
pub(crate) struct Out {
    format: Format,
    quiet: bool,
    closed: bool,
    sink: Box<dyn Write + Send>,
}

impl Out {
    /// Prints to standard output.
    pub(crate) fn stdout(format: Format, quiet: bool) -> Self {
        Self {
            format,
            quiet,
            closed: false,
            sink: Box::new(io::stdout()),
        }
    }

    /// The chosen format.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Whether progress and remarks are left out.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether the reader went away.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes bytes as they are, at once.
    ///
    /// # Errors
    ///
    /// The output can't be written, other than because its reader went away.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.closed {
            return Ok(());
        }
        match self.sink.write_all(bytes).and_then(|()| self.sink.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other.map_err(|error| Error::io("can't write the output", &error)),
        }
    }

    /// Writes a line.
    ///
    /// # Errors
    ///
    /// As [`Out::raw`].
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Error> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Prints a list: a table, or one array.
    ///
    /// # Errors
    ///
    /// As [`Out::raw`].
    pub(crate) fn list<V: View>(&mut self, items: &[V], now: Timestamp) -> Result<(), Error> {
        match self.format {
            Format::Table | Format::Wide => {
                let text = table(items, now, self.format == Format::Wide);
                self.raw(text.as_bytes())
            }
            Format::Json | Format::Yaml | Format::Csv => self.data(items),
        }
    }

    /// Prints one thing: its details, or one object.
    ///
    /// # Errors
    ///
    /// As [`Out::raw`].
    pub(crate) fn one<V: View>(&mut self, item: &V, now: Timestamp) -> Result<(), Error> {
        if self.format.is_for_people() {
            let text = item.details(now);
            self.raw(text.as_bytes())
        } else {
            self.data(item)
        }
    }

    /// Prints a value for programs. Only for their formats.
    ///
    /// # Errors
    ///
    /// As [`Out::raw`].
    pub(crate) fn data<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let text = match self.format {
            Format::Yaml => yaml(value)?,
            Format::Csv => csv::text(value).map_err(|error| unprintable(&error))?,
            _ => json(value)?,
        };
        self.raw(text.as_bytes())
    }

    /// Prints one value of a stream for programs: a line of JSON, for a spreadsheet too, or a YAML
    /// document.
    ///
    /// # Errors
    ///
    /// As [`Out::raw`].
    pub(crate) fn record<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        let text = if self.format == Format::Yaml {
            format!("---\n{}", yaml(value)?)
        } else {
            let text = serde_json::to_string(value).map_err(|error| unprintable(&error))?;
            format!("{text}\n")
        };
        self.raw(text.as_bytes())
    }

    /// Says something beside the answer, on standard error, unless people want quiet.
    pub(crate) fn remark(&self, text: &str) {
        if !self.quiet {
            // Nobody can be told that standard error is gone.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| unprintable(&error))?;
    Ok(format!("{text}\n"))
}

fn yaml<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    serde_norway::to_string(value).map_err(|error| unprintable(&error))
}

fn unprintable(error: &dyn std::error::Error) -> Error {
    Error::io(
        "can't print the answer",
        &io::Error::other(error.to_string()),
    )
}

/// A table of things, as `kapok … ls` shows it.
pub(crate) fn table<V: View>(items: &[V], now: Timestamp, wide: bool) -> String {
    columns(
        &V::columns(wide),
        items.iter().map(|item| item.row(now, wide)),
    )
}

/// Rows under headers, without borders.
pub(crate) fn columns(headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
        .lines()
        .fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// Names and values one below the other, as `kapok … show` prints them.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    pairs.iter().fold(String::new(), |text, (name, value)| {
        let line = format!("{:width$}  {value}", format!("{name}:"));
        text + line.trim_end() + "\n"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let mut out = Out {
            format: Format::Table,
            quiet: false,
            closed: false,
            sink: Box::new(Gone),
        };
        assert!(out.line("a").is_ok() && out.is_closed());
        assert!(out.line("b").is_ok());
    }

    #[test]
    fn columns_line_up_by_width_on_screen() {
        let rows = [
            vec!["城市".to_owned(), "1".to_owned()],
            vec!["a".into(), String::new()],
        ];
        assert_eq!(columns(&["NAME", "N"], rows), "NAME   N\n城市   1\na\n");
    }
}
