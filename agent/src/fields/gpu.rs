//! `gpu.*` and `mining.*`: what a look at a GPU found, what was found before, and what that says of a process.

use saker_rules::{
    FieldArgRef,
    fields::{Field, window_ns},
    value::Value,
};

use super::EventView;
use crate::{
    context::gpu::Seen,
    event::{Body, Gpu, gpu::Pipes},
};

/// The field's value, where it is one of this family and known.
pub fn value<'a>(view: &'a EventView<'_>, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
    let Body::Gpu(gpu) = view.event.body else {
        return None;
    };
    of_card(&gpu, field)
        .or_else(|| window(view, field, arg))
        .or_else(|| of_process(view, &gpu, field))
}

fn of_card<'a>(gpu: &Gpu<'a>, field: Field) -> Option<Value<'a>> {
    let state = gpu.state;
    let text = |text: &'a str| (!text.is_empty()).then_some(Value::Bytes(text.as_bytes()));
    let double = |value: Option<f32>| Some(Value::Double(value?.into()));
    let uint = |value: Option<u64>| Some(Value::Uint(value?));
    let pipe = |of: fn(&Pipes) -> f32| Some(Value::Double(of(state.pipes.as_ref()?).into()));
    match field {
        Field::GpuIndex => Some(Value::Uint(state.index.into())),
        Field::GpuUuid => text(&state.uuid),
        Field::GpuName => text(&state.name),
        Field::GpuInstance => uint(state.instance.map(Into::into)),
        Field::GpuHealth => text(state.health.name()),
        Field::GpuUtil => double(state.util),
        Field::GpuMemUtil => double(state.mem_util),
        Field::GpuMemUsed => uint(state.mem_used),
        Field::GpuMemTotal => uint(state.mem_total),
        Field::GpuPower => double(state.power),
        Field::GpuPowerRatio => double(state.power_ratio()),
        Field::GpuTemperature => uint(state.temperature.map(Into::into)),
        Field::GpuClockSm => uint(state.clock_sm.map(Into::into)),
        Field::GpuClockMem => uint(state.clock_mem.map(Into::into)),
        Field::GpuPcieRx => uint(state.pcie_rx),
        Field::GpuPcieTx => uint(state.pcie_tx),
        Field::GpuNvlink => uint(state.nvlink),
        Field::GpuEcc => uint(state.ecc_uncorrected),
        Field::GpuEncoder => double(state.encoder),
        Field::GpuDecoder => double(state.decoder),
        Field::GpuSm => pipe(|pipes| pipes.sm),
        Field::GpuTensor => pipe(|pipes| pipes.tensor),
        Field::GpuInteger => pipe(|pipes| pipes.integer),
        Field::GpuFp16 => pipe(|pipes| pipes.fp16),
        Field::GpuFp32 => pipe(|pipes| pipes.fp32),
        Field::GpuFp64 => pipe(|pipes| pipes.fp64),
        Field::GpuDram => pipe(|pipes| pipes.dram),
        _ => None,
    }
}

fn window<'a>(view: &EventView<'_>, field: Field, arg: FieldArgRef<'_>) -> Option<Value<'a>> {
    if !matches!(
        field,
        Field::GpuUtilMean | Field::GpuUtilStddev | Field::GpuUtilMin
    ) {
        return None;
    }
    let FieldArgRef::Key(length) = arg else {
        return None;
    };
    let summary = view.gpu?.unit.util.over(window_ns(length)?)?;
    Some(Value::Double(match field {
        Field::GpuUtilMean => summary.mean,
        Field::GpuUtilStddev => summary.deviation,
        _ => summary.least,
    }))
}

fn of_process<'a>(view: &'a EventView<'_>, gpu: &Gpu<'_>, field: Field) -> Option<Value<'a>> {
    let used = view.gpu?.used?;
    let process = gpu.process?;
    let double = |value: Option<f32>| Some(Value::Double(value?.into()));
    let verdict = &used.verdict;
    match field {
        Field::GpuProcUtil => double(process.sm),
        Field::GpuProcMemUtil => double(process.mem_util),
        Field::GpuProcMem => Some(Value::Uint(process.mem_used?)),
        Field::GpuProcDuration => Some(Value::Uint(view.event.ts_ns.saturating_sub(used.since_ns))),
        Field::GpuProcIdle => Some(Value::Uint(view.event.ts_ns.saturating_sub(used.busy_ns))),
        Field::GpuProcSeen => Some(Value::Bytes(match used.seen {
            Seen::Driver => b"driver",
            Seen::Device => b"device",
            Seen::Both => b"both",
        })),
        Field::MiningSuspected => Some(Value::Bool(verdict.is_suspected())),
        Field::MiningScore => Some(Value::Int(verdict.score.into())),
        Field::MiningCertainty => Some(Value::Bytes(verdict.certainty().as_bytes())),
        Field::MiningFamilies => {
            let families = verdict.families();
            Some(view.list(families.map(|family| Value::Bytes(family.name().as_bytes()))))
        }
        Field::MiningEvidence => {
            let evidence = verdict.evidence.iter();
            Some(view.list(evidence.map(|evidence| {
                view.text(format_args!(
                    "{:+} {}: {}",
                    evidence.signal.weight, evidence.signal.name, evidence.what
                ))
            })))
        }
        _ => None,
    }
}
