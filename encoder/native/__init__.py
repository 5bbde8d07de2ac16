"""The native core: attention and 8-bit layers in C++, built by `python -m encoder.native.build`.

Start with `kernels.h` (an overview) and `product.h` (the matrix product that everything uses), then `attention.cpp` and
`layer.cpp`. Only `encoder.ops.native` calls it. Nothing is compiled when a server starts: if the library is not built,
or the processor lacks AVX-512 VNNI, another implementation of the operations serves and reports the reason.
"""
