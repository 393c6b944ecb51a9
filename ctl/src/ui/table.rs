//! Tables without frames, as wide as the terminal.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, presets};

use super::Ui;

/// Rows under a head. Cells are escaped by whoever fills them with words from outside.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    /// A head; columns whose name begins with `>` are set to the right.
    pub fn new(head: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(head.iter().map(|name| {
            Cell::new(name.trim_start_matches('>').to_uppercase()).add_attribute(Attribute::Dim)
        }));
        for (at, name) in head.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                column.set_padding((0, 2));
                if name.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self(table)
    }

    pub fn row<T: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.0
            .add_row(cells.into_iter().map(Into::into).collect::<Vec<Cell>>());
    }

    pub fn print(&self, ui: &Ui) {
        for line in self.to_string().lines() {
            ui.line(line.trim_end());
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// A host's state in its colour.
pub fn state(name: &str) -> Cell {
    let cell = Cell::new(crate::words::clean(name));
    match name {
        "available" | "done" | "ok" => cell.fg(Color::Green),
        "unavailable" | "failed" | "terminated" => cell.fg(Color::Red),
        "" => Cell::new("-"),
        _ => cell.fg(Color::Yellow),
    }
}
