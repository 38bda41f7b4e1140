import tensorflow as tf

from tests.conftest import tiny_config
from trainer.models.kernels.base import EncoderKernels, product_seconds
from trainer.models.kernels.inference import ExportKernels
from trainer.models.kernels.native import NativeKernels
from trainer.models.kernels.native_inference import NativeExportKernels
from trainer.models.kernels.xla import XlaKernels


def test_a_product_is_measured_once_for_each_kind(native):
    for kernels in (XlaKernels, NativeKernels):
        seconds = product_seconds(kernels, tf.float32)
        assert seconds > 0 and product_seconds(kernels, tf.float32) == seconds


def test_all_kernels_have_one_interface(native, native_inference):
    names = set()
    for kernels in (XlaKernels, NativeKernels, ExportKernels, NativeExportKernels):
        assert issubclass(kernels, EncoderKernels) and kernels.unfit(tiny_config(), "float32") is None
        assert list(kernels().held_variables()) == []
        names.add(kernels.name)
    assert len(names) == 4
    assert XlaKernels().adamw_update() is None and callable(NativeKernels().adamw_update())
