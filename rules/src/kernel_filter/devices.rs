//! Conditions that ask for opens of devices, where the same condition asks for the device event too.
//!
//! Whoever opens a device by path opens it by its numbers, and that is an event of its own (`device_open`), which costs other
//! system calls nothing. A condition that every such open meets in both forms, as with `open_read and fd.name startswith
//! /dev/nvidia`, needs only one of them.

use crate::{
    compile::graph::{Graph, Node, NodeId},
    expr::{FieldArg, FieldRef, Literal, Op, Operand, Rhs, Test},
    fields::Field,
};

use super::{Opens, Paths, opens};

/// What `fd.name` of an open starts with where it is a device that `device_open` tells of.
pub const DEVICE_PATHS: [&[u8]; 4] = [
    b"/dev/nvidia",
    b"/dev/kfd",
    b"/dev/dri/render",
    b"/dev/accel",
];

/// Is there a `device_open` that meets `device` for each open that meets `open`? Both are what is left of one condition.
pub(crate) fn supplies(graph: &Graph, device: NodeId, open: NodeId) -> bool {
    let wanted = parts(graph, open);
    is_of_devices(&opens(graph, open, true))
        // The device event is of an attempt on a device that is there; of others only a failed open tells.
        && wanted.iter().any(|part| asks_for_success(graph, *part))
        // What the device event has to meet, the open had to.
        && parts(graph, device).iter().all(|part| wanted.contains(part))
}

fn is_of_devices(opens: &Opens) -> bool {
    let is_device = |path: &Vec<u8>| DEVICE_PATHS.iter().any(|device| path.starts_with(device));
    [&opens.any, &opens.read, &opens.write]
        .into_iter()
        .flatten()
        .all(|paths| match paths {
            Paths::Any => false,
            Paths::Of(paths) => {
                paths.everything.is_empty()
                    && paths.suffixes.is_empty()
                    && paths.exact.iter().chain(&paths.prefixes).all(is_device)
            }
        })
}

/// `fd.num >= 0`.
fn asks_for_success(graph: &Graph, node: NodeId) -> bool {
    let Node::Atom(atom) = graph.node(node) else {
        return false;
    };
    let Test {
        lhs,
        op,
        rhs,
        modifier,
        ..
    } = graph.atom(*atom);
    let is_number = matches!(
        lhs,
        Operand::Field(FieldRef {
            field: Field::FdNum,
            arg: FieldArg::None,
        })
    );
    is_number
        && *op == Op::Ge
        && modifier.is_none()
        && matches!(rhs, Rhs::Values(values) if values[..] == [Literal::Int(0)])
}

/// The conditions that a node is the `and` of.
fn parts(graph: &Graph, node: NodeId) -> Vec<NodeId> {
    match graph.node(node) {
        Node::And(nodes) => nodes.iter().flat_map(|node| parts(graph, *node)).collect(),
        Node::True => Vec::new(),
        _ => vec![node],
    }
}
