"""The native core: embeddings, attention and 8-bit layers in C++, built by `python -m encoder.native.build`.

It knows neither Python nor torch: `core.py` calls its C interface. Start with `kernels.h` (an overview), `product.h`
(the matrix product) and `vectors.h` (what each kind of processor has its own code for, in `forms/`), then
`attention.cpp` and `layer.cpp`. Only `encoder.ops.native` uses it. Nothing is compiled when a server starts: if
the library is not built, PyTorch serves and reports the reason.
"""
