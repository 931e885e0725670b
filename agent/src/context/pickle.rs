//! Judges what an unpickler asks for: one global by its module and name, without knowing its arguments.
//!
//! Pure and without allocation: a function of two names. `docs/pickle-detection.md` argues the tiers; the tables beside this file hold
//! the facts. What follows from a judgement is the rules' business.

mod frameworks;
mod packages;
mod stdlib;
mod table;

use table::{Row, Verdict};

/// What the global is for; the value of `pickle.class`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Runs code or programs, or makes functions of code that the file carries.
    Exec,
    /// Loads modules.
    Import,
    /// Talks to other machines.
    Network,
    /// Reads or changes files.
    File,
    /// Reaches or calls something else that the file names.
    Indirect,
    /// Belongs to a module of which nothing is known: mostly the user's own classes.
    UnknownModule,
    /// What frameworks put into models.
    MlKnown,
}

impl Class {
    /// The value that rules compare with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Import => "import",
            Self::Network => "network",
            Self::File => "file",
            Self::Indirect => "indirect",
            Self::UnknownModule => "unknown-module",
            Self::MlKnown => "ml-known",
        }
    }
}

/// What is thought of a global.
///
/// The tiers of the documentation follow from both members: *certain* is `dangerous`; *suspicious* is a class of import, network, file
/// or indirect that is not; an `Exec` that is not dangerous carries code as dill and cloudpickle do for every function they save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What it is for.
    pub class: Class,
    /// No model needs it, and who loads a file with it has reason to look at once.
    pub dangerous: bool,
}

impl Judgement {
    const fn certain(class: Class) -> Self {
        Self {
            class,
            dangerous: true,
        }
    }

    const fn possible(class: Class) -> Self {
        Self {
            class,
            dangerous: false,
        }
    }

    /// Whether it is neither certain nor ordinary.
    pub const fn is_suspicious(self) -> bool {
        !self.dangerous
            && matches!(
                self.class,
                Class::Import | Class::Network | Class::File | Class::Indirect
            )
    }
}

/// Judges a global as the unpickler names it: before the names of Python 2 are mapped, a dotted name in one piece.
pub fn classify(module: &[u8], name: &[u8]) -> Judgement {
    let known = find_row(module);
    if let Some(row) = known
        && let Some(verdict) = row.verdict_for_name(name)
    {
        return judgement(verdict);
    }
    if known.is_some() && is_exception(name) {
        // What went wrong in a worker comes back as a pickle, from whatever module it was raised in.
        return Judgement::possible(Class::MlKnown);
    }
    if let Some(found) = submodule(module, name) {
        return found;
    }
    if module == b"__main__" && name == b"__dict__" {
        // What dill gives every function of the script as its globals.
        return Judgement::possible(Class::Exec);
    }
    if let Some(found) = reached_by_name(module, name) {
        return found;
    }
    let Some(row) = known else {
        return unknown(module, name);
    };
    let is_type = is_type(name);
    if is_type {
        return judgement(row.types);
    }
    if row.functions == Verdict::Ordinary
        && (is_walk(name) || stdlib::is_module(name) || table::is_sink(name))
    {
        // A function of an innocent module; but a walk through something other than a class, a module that it happens to
        // import, or a name that elsewhere runs code is not that.
        return if table::is_sink(name) {
            Judgement::certain(Class::Exec)
        } else {
            Judgement::possible(Class::Indirect)
        };
    }
    if row.functions == Verdict::Ordinary && table::is_access(name) {
        // `DataFrame.to_csv`, `Booster.load_model`: a class is ordinary, what it does to files is no part of a model.
        return Judgement::possible(Class::File);
    }
    judgement(row.functions)
}

const fn judgement(verdict: Verdict) -> Judgement {
    match verdict {
        Verdict::Certain(class) => Judgement::certain(class),
        Verdict::Suspicious(class) => Judgement::possible(class),
        Verdict::CarriesCode => Judgement::possible(Class::Exec),
        Verdict::Ordinary => Judgement::possible(Class::MlKnown),
    }
}

/// The row of a module, or of the nearest package around it.
fn find_row(module: &[u8]) -> Option<&'static Row> {
    let top = module.split(|byte| *byte == b'.').next()?;
    let rows = [stdlib::ROWS, frameworks::ROWS, packages::ROWS]
        .into_iter()
        .find(|rows| table::has_top(rows, top))?;
    if let Some(row) = table::get(rows, module, false) {
        return Some(row);
    }
    let mut package = module;
    while let Some(dot) = package.iter().rposition(|byte| *byte == b'.') {
        package = &package[..dot];
        if let Some(row) =
            table::get(rows, package, true).or_else(|| table::get(rows, package, false))
        {
            return Some(row);
        }
    }
    None
}

/// A dotted walk, or an attribute that is a module: `logging` and `os.getpid`, `torch` and `serialization.os.system`.
fn reached_by_name(module: &[u8], name: &[u8]) -> Option<Judgement> {
    let mut rest = name;
    loop {
        let dot = rest.iter().position(|byte| *byte == b'.');
        let component = &rest[..dot.unwrap_or(rest.len())];
        if table::is_way_out(component) {
            return Some(Judgement::certain(Class::Indirect));
        }
        let tail = dot.map(|dot| &rest[dot + 1..]);
        if stdlib::is_powerful(component) {
            // What follows is a name of that module.
            let class = tail.map_or(Class::Indirect, |tail| match classify(component, tail) {
                Judgement {
                    class: Class::MlKnown | Class::UnknownModule,
                    ..
                } => Class::Indirect,
                found => found.class,
            });
            return Some(Judgement::certain(class));
        }
        match tail {
            Some(tail) => rest = tail,
            None => break,
        }
    }
    // Copies of powerful modules inside packages: `six.moves.builtins`, `gevent.subprocess`, `pip._vendor.requests`.
    // Many packages have a `pickle` or `multiprocessing` of their own, with which their objects are rebuilt.
    if let Some(dot) = module.iter().rposition(|byte| *byte == b'.')
        && stdlib::is_powerful(&module[dot + 1..])
        && !matches!(
            &module[dot + 1..],
            b"pickle" | b"_pickle" | b"multiprocessing"
        )
    {
        let found = classify(&module[dot + 1..], name);
        return found.dangerous.then_some(found);
    }
    None
}

/// A module named as an attribute of the package around it: `torch` and `hub`, `numpy` and `f2py.crackfortran.myeval`. No pickler
/// writes that.
fn submodule(package: &[u8], name: &[u8]) -> Option<Judgement> {
    const LENGTH_MAX: usize = 256;
    let mut joined = [0u8; LENGTH_MAX];
    let dot = name.iter().position(|byte| *byte == b'.');
    let (component, rest) = name.split_at(dot.unwrap_or(name.len()));
    let length = package.len() + 1 + component.len();
    let module = joined.get_mut(..length)?;
    module[..package.len()].copy_from_slice(package);
    module[package.len()] = b'.';
    module[package.len() + 1..].copy_from_slice(component);
    let row = find_row(module).filter(|row| row.module.as_bytes() == module)?;
    if is_class_name(component) {
        return None;
    }
    match rest.strip_prefix(b".") {
        Some(rest) => Some(classify(module, rest)),
        None => Some(match row.functions {
            Verdict::Ordinary | Verdict::CarriesCode => Judgement::possible(Class::Indirect),
            verdict => judgement(verdict),
        }),
    }
}

/// A module that no table knows. The user's own classes and functions are everyday content of models.
fn unknown(module: &[u8], name: &[u8]) -> Judgement {
    let is_users_script = matches!(module, b"__main__" | b"__mp_main__");
    if is_users_script || is_type(name) || !name.contains(&b'.') && !table::is_sink(name) {
        // A private module at the top is an interpreter's, not a project's.
        if !is_users_script && module.starts_with(b"_") && !module.contains(&b'.') {
            return Judgement::possible(Class::Indirect);
        }
        return Judgement::possible(Class::UnknownModule);
    }
    if table::is_sink(name) {
        return Judgement::possible(Class::Indirect);
    }
    Judgement::possible(Class::UnknownModule)
}

/// Whether every component is named as classes are.
fn is_type(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'.').all(is_class_name)
}

/// Whether a dotted name begins with something other than a class: `Layer._hook` is a method, `core._internal` a walk.
fn is_walk(name: &[u8]) -> bool {
    let mut components = name.split(|byte| *byte == b'.');
    let first = components.next().unwrap_or_default();
    components.next().is_some() && !is_class_name(first)
}

/// Whether this is named as exceptions are; those of C have no capital letter in Python 2 and some modules since.
fn is_exception(name: &[u8]) -> bool {
    let endings: [&[u8]; 5] = [b"Error", b"Exception", b"Warning", b"Timeout", b"Interrupt"];
    name == b"error"
        || !name.contains(&b'.')
            && is_class_name(name)
            && endings.iter().any(|ending| name.ends_with(ending))
}

fn is_class_name(component: &[u8]) -> bool {
    component
        .iter()
        .find(|byte| **byte != b'_')
        .is_some_and(u8::is_ascii_uppercase)
}

#[cfg(test)]
mod tests;
