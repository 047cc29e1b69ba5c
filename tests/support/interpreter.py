"""Triton's interpreter, with mended conversions where it differs from the compiled kernels.

Compiled code rounds float32 -> bfloat16 to nearest even (`cvt.rn.bf16.f32`) and widens bfloat16 by a shift. The
interpreter of triton 3.9 drops the lower bits, and changes infinities, NaN and subnormals when it widens. That of
triton 3.6 turns an array of one element into a number, which NumPy refuses from 2.4 on.
"""

from __future__ import annotations

import os

import torch


def interpret() -> None:
    """Let Triton interpret in this process; call it before the first import of Triton."""
    os.environ["TRITON_INTERPRET"] = "1"
    _mend_bfloat16()
    _mend_index()


def _mend_bfloat16() -> None:
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


def _mend_index() -> None:
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_lang_tensor
