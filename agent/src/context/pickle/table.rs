//! The shape of the tables and how they are searched.

use std::cmp::Ordering;

use super::Class;

/// What is thought of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No model needs it.
    Certain(Class),
    /// Ordinary models do not have it.
    Suspicious(Class),
    /// Rebuilds functions of code in the file; dill and cloudpickle do so for every function they save.
    CarriesCode,
    /// Ordinary models have it.
    Ordinary,
}

/// The verdict on functions that models have no need of, though nothing bad is known of them.
pub(super) const ODD: Verdict = Verdict::Suspicious(Class::Indirect);

/// A module, and what is thought of its names.
#[derive(Debug)]
pub(super) struct Row {
    /// The module. A final dot: what is below it, without itself.
    pub(super) module: &'static str,
    /// Names that are not types.
    pub(super) functions: Verdict,
    /// Names that begin with a capital letter, as classes do.
    pub(super) types: Verdict,
    /// Names that differ, with spaces between; a final `*` stands for any ending.
    pub(super) names: &'static [(Verdict, &'static str)],
}

impl Row {
    pub(super) const fn new(module: &'static str, functions: Verdict, types: Verdict) -> Self {
        Self {
            module,
            functions,
            types,
            names: &[],
        }
    }

    /// A module of which models use everything.
    pub(super) const fn plain(module: &'static str) -> Self {
        Self::new(module, Verdict::Ordinary, Verdict::Ordinary)
    }

    /// A module of which models use the classes.
    pub(super) const fn types(module: &'static str) -> Self {
        Self::new(module, ODD, Verdict::Ordinary)
    }

    /// A module that models do not use.
    pub(super) const fn odd(module: &'static str, class: Class) -> Self {
        Self::new(
            module,
            Verdict::Suspicious(class),
            Verdict::Suspicious(class),
        )
    }

    /// A module that no model has any business with.
    pub(super) const fn bad(module: &'static str, class: Class) -> Self {
        Self::new(module, Verdict::Certain(class), Verdict::Certain(class))
    }

    pub(super) const fn but(mut self, names: &'static [(Verdict, &'static str)]) -> Self {
        self.names = names;
        self
    }

    /// The verdict on a name that differs from its module's others.
    pub(super) fn verdict_for_name(&self, name: &[u8]) -> Option<Verdict> {
        self.names
            .iter()
            .find(|(_, names)| {
                names
                    .split_ascii_whitespace()
                    .any(|known| match known.strip_suffix('*') {
                        Some(start) => name.starts_with(start.as_bytes()) && !name.contains(&b'.'),
                        None => known.as_bytes() == name,
                    })
            })
            .map(|(verdict, _)| *verdict)
    }
}

/// The row of exactly this module, or of what is below it.
pub(super) fn get(rows: &'static [Row], module: &[u8], below: bool) -> Option<&'static Row> {
    rows.binary_search_by(|row| {
        let row = row.module.as_bytes();
        if !below || row.len() <= module.len() {
            // A row that is no longer than the module comes before the module with its dot, even where they are equal.
            row.cmp(module).then(if below {
                Ordering::Less
            } else {
                Ordering::Equal
            })
        } else {
            let (start, end) = row.split_at(module.len());
            start.cmp(module).then_with(|| end.cmp(b"."))
        }
    })
    .ok()
    .map(|found| &rows[found])
}

/// Whether the table has this package or something in it.
pub(super) fn has_top(rows: &[Row], top: &[u8]) -> bool {
    let first = rows.partition_point(|row| row.module.as_bytes() < top);
    rows.get(first).is_some_and(|row| {
        let module = row.module.as_bytes();
        module.starts_with(top) && matches!(module.get(top.len()), None | Some(b'.'))
    })
}

/// Attributes that lead from any object to everything else.
pub(super) fn is_way_out(component: &[u8]) -> bool {
    matches!(
        component,
        b"__globals__"
            | b"__builtins__"
            | b"__builtin__"
            | b"__import__"
            | b"__subclasses__"
            | b"__class__"
            | b"__base__"
            | b"__bases__"
            | b"__mro__"
            | b"__dict__"
            | b"__code__"
            | b"__closure__"
            | b"__init__"
            | b"__init_subclass__"
            | b"__getattribute__"
            | b"__getattr__"
            | b"__setattr__"
            | b"__loader__"
            | b"__spec__"
            | b"__self__"
            | b"__func__"
            | b"__wrapped__"
            | b"__module__"
            | b"func_globals"
            | b"im_func"
            | b"gi_frame"
            | b"f_globals"
            | b"f_builtins"
    )
}

/// Whether a dotted name ends in a method that reads, writes or fetches files wherever it is found.
pub(super) fn is_access(name: &[u8]) -> bool {
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.') else {
        return false;
    };
    matches!(
        &name[dot + 1..],
        b"download"
            | b"dump"
            | b"from_checkpoint"
            | b"from_file"
            | b"from_pretrained"
            | b"fromfile"
            | b"load"
            | b"load_checkpoint"
            | b"load_from_checkpoint"
            | b"load_model"
            | b"open"
            | b"query"
            | b"save"
            | b"save_model"
            | b"save_pretrained"
            | b"export_chrome_trace"
            | b"export_memory_timeline"
            | b"export_stacks"
            | b"to_clipboard"
            | b"to_csv"
            | b"to_excel"
            | b"to_feather"
            | b"to_hdf"
            | b"to_html"
            | b"to_json"
            | b"to_latex"
            | b"to_markdown"
            | b"to_orc"
            | b"to_parquet"
            | b"to_pickle"
            | b"to_sql"
            | b"to_stata"
            | b"to_string"
            | b"to_xml"
            | b"tofile"
            | b"unlink"
            | b"write_bytes"
            | b"write_text"
    )
}

/// Whether the last component is a name that runs code or programs wherever it is found.
pub(super) fn is_sink(name: &[u8]) -> bool {
    let last = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    matches!(
        last,
        b"eval"
            | b"exec"
            | b"exec_"
            | b"execfile"
            | b"execv"
            | b"execve"
            | b"execvp"
            | b"exec_command"
            | b"system"
            | b"popen"
            | b"Popen"
            | b"check_call"
            | b"check_output"
            | b"getoutput"
            | b"getstatusoutput"
            | b"spawn"
            | b"import_module"
            | b"import_string"
            | b"load_module"
            | b"load_source"
            | b"run_code"
            | b"run_command"
            | b"run_module"
            | b"run_path"
            | b"runcode"
            | b"runsource"
            | b"runstring"
            | b"unsafe_load"
    )
}
