"""Triton's interpreter, with the one rounding mended in which it differs from the compiled kernels.

Compiled code rounds float32 -> bfloat16 to nearest even (`cvt.rn.bf16.f32`); the interpreter of triton 3.9 cuts the
lower bits off.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported

import torch


def round_to_nearest_even() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    cast = interpreter.InterpreterBuilder.cast_impl

    def cast_impl(self, src, dst_type):
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            rounded = torch.from_numpy(src.data.copy()).to(torch.bfloat16).view(torch.uint16).numpy()
            return interpreter.TensorHandle(rounded, dst_type.scalar)
        return cast(self, src, dst_type)

    interpreter.InterpreterBuilder.cast_impl = cast_impl
