"""Triton's interpreter, with the conversions mended in which it differs from the compiled kernels.

Compiled code rounds float32 -> bfloat16 to nearest even (`cvt.rn.bf16.f32`) and widens bfloat16 by a shift; the
interpreter of triton 3.9 cuts the lower bits off, and changes infinities, NaN and subnormals on the way up.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported

import torch


def mend_bfloat16() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    cast = interpreter.InterpreterBuilder.cast_impl

    def cast_impl(self, src, dst_type):
        conversion = (src.dtype.scalar, dst_type.scalar)
        if conversion == (tl.float32, tl.bfloat16):
            data = torch.from_numpy(src.data.copy()).to(torch.bfloat16).view(torch.uint16).numpy()
        elif conversion == (tl.bfloat16, tl.float32):
            data = torch.from_numpy(src.data.copy()).view(torch.bfloat16).float().numpy()
        else:
            return cast(self, src, dst_type)
        return interpreter.TensorHandle(data, dst_type.scalar)

    interpreter.InterpreterBuilder.cast_impl = cast_impl
