//! The table of diagnostics: code, severity, Falco's nearest code, and what each means.
//!
//! Codes are stable: a retired one is never used again.

use super::Severity;

macro_rules! codes {
    ($($variant:ident $id:literal $severity:ident $falco:ident $meaning:literal;)*) => {
        /// A kind of diagnostic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $meaning] $variant,)* }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The stable identifier.
            pub fn id(self) -> &'static str {
                match self { $(Code::$variant => $id,)* }
            }

            /// What it means, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning,)* }
            }

            /// Whether loading fails because of it.
            pub fn severity(self) -> Severity {
                match self { $(Code::$variant => Severity::$severity,)* }
            }

            fn falco_code(self) -> FalcoCode {
                match self { $(Code::$variant => FalcoCode::$falco,)* }
            }
        }
    };
}

codes! {
    YamlSyntax "SK0001" Error YamlParse "The file is not YAML.";
    YamlStructure "SK0002" Error YamlValidate "The file's structure is not that of a rules file.";
    MissingKey "SK0003" Error YamlValidate "A key that the item needs is missing or empty.";
    WrongType "SK0004" Error YamlValidate "A key's value has the wrong type.";
    InvalidPriority "SK0005" Error YamlValidate "The priority is none of Falco's eight.";
    TooLarge "SK0006" Error YamlValidate "A limit on files, lists or conditions is exceeded.";
    InvalidOverride "SK0007" Error YamlValidate "An override names a key or operation that it cannot.";
    NoPreviousItem "SK0008" Error Validate "An append or override finds nothing to change.";
    InvalidException "SK0009" Error Validate "An exception's fields, operators and values do not fit.";
    SourceChanged "SK0010" Error Validate "A rule is defined again with another source.";
    EngineVersion "SK0011" Error Validate "The file needs another version of the engine.";
    UnsupportedAction "SK0012" Error Validate "The action is not available.";
    InvalidSequence "SK0013" Error Validate "A sequence or duration is not well formed.";
    InvalidProfile "SK0014" Error YamlValidate "A profile is none of those that there are.";
    ConditionSyntax "SK0020" Error CompileCondition "The condition does not follow the grammar.";
    UnknownField "SK0021" Error CompileCondition "No field has this name.";
    FieldArgument "SK0022" Error CompileCondition "The field's argument is missing, unexpected or wrong.";
    UndefinedMacro "SK0023" Error CompileCondition "No macro of this name is defined before its use.";
    OperatorType "SK0024" Error CompileCondition "The operator does not apply to the field's type.";
    InvalidValue "SK0025" Error CompileCondition "The value cannot be read as the field's type.";
    UnknownEventType "SK0026" Error CompileCondition "No event has this type.";
    TransformerArgument "SK0027" Error CompileCondition "The transformer does not apply to its arguments.";
    RightSideField "SK0028" Error CompileCondition "The right side's field cannot be compared with the left.";
    OutputSyntax "SK0030" Error CompileOutput "The output does not follow the format.";
    OutputField "SK0031" Error CompileOutput "The output names a field that cannot be printed.";
    UnknownKey "SK0100" Warning UnknownItem "The key is not known and is ignored.";
    UnknownItem "SK0101" Warning UnknownItem "The item is not known and is ignored.";
    DeprecatedKey "SK0102" Warning DeprecatedItem "The key is deprecated.";
    UnknownSource "SK0103" Warning UnknownSource "No agent has this source of events; the rule is skipped.";
    InvalidName "SK0104" Warning InvalidName "Conditions cannot refer to an item of this name.";
    ExceptionRepeated "SK0105" Warning ExceptionNameNotUnique "Two exceptions of a rule share a name.";
    ExceptionWithoutValues "SK0106" Warning AppendNoValues "An appended exception has no values.";
    NoEventType "SK0110" Warning NoEvttype "The rule is not restricted to few types of events.";
    NeverTrue "SK0111" Warning Condition "The condition can never be true.";
    NullComparison "SK0112" Warning UnsafeNaCheck "The comparison is always false where the field is absent.";
    FieldAsValue "SK0113" Warning Condition "A field or transformer is used as text.";
    NeedlessRegex "SK0114" Warning Condition "A simpler operator does what the regular expression does.";
    DeprecatedField "SK0115" Warning DeprecatedItem "The field is deprecated.";
    UnusedMacro "SK0116" Warning UnusedMacro "Nothing refers to the macro.";
    UnusedList "SK0117" Warning UnusedList "Nothing refers to the list.";
    ShadowedRule "SK0118" Warning Condition "Another rule always matches first.";
    Expensive "SK0119" Warning Condition "The rule prevents filtering in the kernel.";
    UnknownArgument "SK0120" Warning Condition "No event of Falco has an argument of this name.";
    PluginRequired "SK0121" Warning Extension "The file asks for a plugin that Saker replaces or lacks.";
}

impl Code {
    /// Falco's code and description that come nearest.
    pub(super) fn falco(self, severity: Severity) -> (&'static str, &'static str) {
        match (self.falco_code(), severity) {
            // A rule may ask that unknown names be no error.
            (FalcoCode::CompileCondition | FalcoCode::CompileOutput, Severity::Warning) => {
                FalcoCode::UnknownFilter.names()
            }
            (code, _) => code.names(),
        }
    }
}

#[derive(Clone, Copy)]
enum FalcoCode {
    YamlParse,
    YamlValidate,
    Validate,
    CompileCondition,
    CompileOutput,
    UnknownSource,
    UnsafeNaCheck,
    NoEvttype,
    UnknownFilter,
    UnusedMacro,
    UnusedList,
    UnknownItem,
    DeprecatedItem,
    AppendNoValues,
    ExceptionNameNotUnique,
    InvalidName,
    Condition,
    Extension,
}

impl FalcoCode {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::YamlParse => ("LOAD_ERR_YAML_PARSE", "YAML parse error"),
            Self::YamlValidate => (
                "LOAD_ERR_YAML_VALIDATE",
                "Error validating internal structure of YAML file",
            ),
            Self::Validate => (
                "LOAD_ERR_VALIDATE",
                "Error validating rule/macro/list/exception objects",
            ),
            Self::CompileCondition => ("LOAD_ERR_COMPILE_CONDITION", "Error compiling condition"),
            Self::CompileOutput => ("LOAD_ERR_COMPILE_OUTPUT", "Error compiling output"),
            Self::UnknownSource => ("LOAD_UNKNOWN_SOURCE", "Unknown event source"),
            Self::UnsafeNaCheck => (
                "LOAD_UNSAFE_NA_CHECK",
                "Unsafe <NA> comparison in condition",
            ),
            Self::NoEvttype => ("LOAD_NO_EVTTYPE", "Condition has no event-type restriction"),
            Self::UnknownFilter => (
                "LOAD_UNKNOWN_FILTER",
                "Unknown field or event-type in condition or output",
            ),
            Self::UnusedMacro => ("LOAD_UNUSED_MACRO", "Unused macro"),
            Self::UnusedList => ("LOAD_UNUSED_LIST", "Unused list"),
            Self::UnknownItem => ("LOAD_UNKNOWN_ITEM", "Unknown rules file item"),
            Self::DeprecatedItem => ("LOAD_DEPRECATED_ITEM", "Used deprecated item"),
            Self::AppendNoValues => (
                "LOAD_APPEND_NO_VALUES",
                "Overriding/appending with no values",
            ),
            Self::ExceptionNameNotUnique => (
                "LOAD_EXCEPTION_NAME_NOT_UNIQUE",
                "Multiple exceptions defined with the same name",
            ),
            Self::InvalidName => ("LOAD_INVALID_MACRO_NAME", "Invalid macro name"),
            Self::Condition => ("LOAD_COMPILE_CONDITION", "Warning in rule condition"),
            Self::Extension => ("LOAD_WARNING_EXTENSION", "Warning in extension item"),
        }
    }
}
