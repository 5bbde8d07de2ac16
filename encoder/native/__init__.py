"""The native core: attention and 8-bit layers in C++, one file a concern, built by `python -m encoder.native.build`.

Start reading at `kernels.h` (what there is), `product.h` (the one matrix product under all of it), then `attention.cpp`
and `layer.cpp`. Python reaches it through `encoder.ops.native` alone. Nothing is compiled when a server starts: where
no library was built, or the processor lacks AVX-512 with VNNI, another form of the operations serves, and says why.
"""
