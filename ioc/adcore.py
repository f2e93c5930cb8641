"""The records that ADCore gives every driver and plugin, as far as they don't act by themselves.

Names, kinds and states are those of ADCore 3.5, so that stock clients connect to everything they
expect. A setting that has no meaning here has one value: a client may put that, and is refused
anything else with a sentence. What acts is in the modules of the camera and the plugins.
"""

from __future__ import annotations

from collections.abc import Sequence

from ioc.fields import CharArray, Double, Enum, Long, LongArray, String
from ioc.soft import RecordGroup

__all__ = [
    "DISABLE_ENABLE", "NO_YES", "PORT", "add_array_records", "add_camera_records",
    "add_hdf5_records", "add_plugin_records", "show_array", "show_newest",
]  # fmt: skip

#: asyn port of the camera; plugins take arrays from it.
PORT = "AD1"
VERSION = "3.5.0"
#: EPICS counts seconds from 1990-01-01 (s since 1970).
EPICS_EPOCH = 631152000

NO_YES = ("No", "Yes")
OFF_ON = ("Off", "On")
DISABLE_ENABLE = ("Disable", "Enable")
DATA_TYPES = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Float32", "Float64")
_COLOR_MODES = ("Mono", "Bayer", "RGB1", "RGB2", "RGB3", "YUV444", "YUV422", "YUV421")
_BAYER = ("RGGB", "GBRG", "GRBG", "BGGR")
_ATTRIBUTE_STATES = (
    "Attributes file OK", "File not found", "XML syntax error", "Macro substitution",
)  # fmt: skip
_DIMENSIONS = 10
_EXTRA = ("X", "Y", "N", *map(str, range(3, 10)))


def add_array_records(group: RecordGroup, port: str) -> None:
    """Add what every source of arrays has, camera and plugins alike."""
    group.readback("PortName_RBV", String, port)
    group.readback("ADCoreVersion_RBV", String, VERSION)
    group.readback("DriverVersion_RBV", String, VERSION)
    for axis in "XYZ":
        group.readback(f"ArraySize{axis}_RBV", Long, 0)
    group.readback("ArraySize_RBV", Long, 0)
    group.readback("NDimensions_RBV", Long, 2)
    group.readback("Dimensions_RBV", LongArray, (0,) * _DIMENSIONS, max_length=_DIMENSIONS)
    group.setting("DataType", Enum, 3, put=group.same("DataType"), enum_strings=DATA_TYPES)
    group.records["DataType_RBV"].add_disable()
    group.fixed(["ColorMode"], Enum, 0, enum_strings=_COLOR_MODES)
    group.readback("BayerPattern_RBV", Enum, 0, enum_strings=_BAYER)
    group.readback("UniqueId_RBV", Long, 0)
    group.readback("TimeStamp_RBV", Double, 0.0, precision=3, units="s")
    group.readback("EpicsTSSec_RBV", Long, 0)
    group.readback("EpicsTSNsec_RBV", Long, 0)
    group.readback("Codec_RBV", String, "")
    group.readback("CompressedSize_RBV", Long, 0)
    group.setting("ArrayCounter", Long, 0)
    group.readback("ArrayRate_RBV", Double, 0.0, precision=1, units="Hz")
    group.control("AsynIO", Long, 0, read_only=True)
    for name in ("NDAttributesFile", "NDAttributesMacros"):
        group.control(name, CharArray, "", put=group.only(name, b"\0"))
    group.control("NDAttributesStatus", Enum, 0, enum_strings=_ATTRIBUTE_STATES, read_only=True)
    for name in ("PoolMaxBuffers", "PoolAllocBuffers", "PoolFreeBuffers", "PoolUsedBuffers"):
        group.control(name, Long, 0, read_only=True)
    for name in ("PoolMaxMem", "PoolUsedMem"):
        group.control(name, Double, 0.0, precision=1, units="MB", read_only=True)
    group.control("NumQueuedArrays", Long, 0, read_only=True)
    group.control("EmptyFreeList", Enum, 0, enum_strings=("Done", "Empty"))


def add_camera_records(group: RecordGroup) -> None:
    """Add the part of a driver's records that needs no behaviour: ADBase's and ADSimDetector's."""
    add_array_records(group, PORT)
    group.fixed(["TriggerMode"], Enum, 0, enum_strings=("Internal", "External"))
    group.fixed(["NumExposures", "BinX", "BinY"], Long, 1)
    group.fixed(["MinX", "MinY", "Noise"], Long, 0)
    group.fixed(["ReverseX", "ReverseY"], Enum, 0, enum_strings=NO_YES)
    group.fixed(["FrameType"], Enum, 0, enum_strings=("Normal", "Background", "FlatField"))
    gains = ["Gain", "GainX", "GainY", "GainRed", "GainGreen", "GainBlue"]
    group.fixed(gains, Double, 1.0, precision=3)
    group.fixed(["Temperature"], Double, 25.0, precision=1, units="C")
    group.control("TemperatureActual", Double, 25.0, precision=1, units="C", read_only=True)
    group.fixed(["Offset"], Double, 0.0, precision=3)
    peaks = [f"Peak{what}{axis}" for what in ("Start", "Num", "Step", "Width") for axis in "XY"]
    group.fixed([*peaks, "PeakVariation"], Long, 0)
    group.fixed(["WaitForPlugins"], Enum, 1, enum_strings=NO_YES)
    group.fixed(["ShutterMode"], Enum, 0, enum_strings=("None", "EPICS PV", "Detector output"))
    group.fixed(["ShutterControl"], Enum, 0, enum_strings=("Close", "Open"))
    group.readback("ShutterStatus_RBV", Enum, 0, enum_strings=("Closed", "Open"))
    group.readback("ShutterStatusEPICS_RBV", Enum, 0, enum_strings=("Closed", "Open"))
    group.fixed(["ShutterOpenDelay", "ShutterCloseDelay"], Double, 0.0, precision=3, units="s")
    for name in ("ShutterOpenEPICS", "ShutterCloseEPICS", "ShutterControlEPICS", "ShutterFanout"):
        group.control(name, Long, 0, read_only=True)
    group.readback("NumExposuresCounter_RBV", Long, 0)
    group.readback("StringToServer_RBV", CharArray, "")
    group.readback("StringFromServer_RBV", CharArray, "")
    # Its records are always up to date.
    group.control("ReadStatus", Enum, 0, enum_strings=("Done", "Read"), put=_done)
    for name in ("SerialNumber_RBV", "FirmwareVersion_RBV", "SDKVersion_RBV"):
        group.readback(name, String, "")


def add_plugin_records(group: RecordGroup, port: str, kind: str) -> None:
    """Add what NDPluginBase gives every plugin, apart from EnableCallbacks and MinCallbackTime."""
    add_array_records(group, port)
    group.readback("PluginType_RBV", String, kind)
    group.fixed(["NDArrayPort"], String, PORT)
    group.fixed(["NDArrayAddress"], Long, 0)
    group.setting("ArrayCallbacks", Enum, 1, enum_strings=DISABLE_ENABLE)
    group.setting("DroppedArrays", Long, 0)
    group.setting("DroppedOutputArrays", Long, 0)
    group.setting("DisorderedArrays", Long, 0)
    for axis in range(_DIMENSIONS):
        group.fixed([f"Dim{axis}SA"], Long, 0)
        if axis < 3:
            # The sizes of the array; ADCore lets processing plugins set them.
            group.control(f"ArraySize{axis}", Long, 0, read_only=True)
            group.readback(f"ArraySize{axis}_RBV", Long, 0)
        else:
            group.fixed([f"ArraySize{axis}"], Long, 0)
    group.control("NDimensions", Long, 2, read_only=True)
    group.control(
        "Dimensions", LongArray, (0,) * _DIMENSIONS, max_length=_DIMENSIONS, read_only=True
    )
    group.readback("ExecutionTime_RBV", Double, 0.0, precision=3, units="ms")
    group.readback("MaxThreads_RBV", Long, 1)
    group.fixed(["NumThreads"], Long, 1)
    group.fixed(["SortMode"], Enum, 0, enum_strings=("Unsorted", "Sorted"))
    group.fixed(["SortTime"], Double, 0.0, precision=3, units="s")
    group.fixed(["SortSize"], Long, 0)
    for name in ("SortFree", "SortFreeLow", "QueueFreeLow", "QueueUse", "QueueUseHIGH"):
        group.control(name, Long, 0, read_only=True)
    group.control("QueueUseHIHI", Long, 0, read_only=True)
    group.control("QueueFree", Long, 1, read_only=True)
    group.control("QueueSize", Long, 1, put=group.only("QueueSize", 1))
    group.readback("QueueSize_RBV", Long, 1)
    group.control("ProcessPlugin", Enum, 0, enum_strings=("Done", "Process"), put=_done)
    group.fixed(["MaxByteRate", "MaxArrayRate"], Double, 0.0, precision=1)
    group.control("MaxArrayRate_COUT", Double, 0.0, read_only=True)


def add_hdf5_records(group: RecordGroup) -> None:
    """Add the part of NDFile's and NDFileHDF5's records that needs no behaviour."""
    group.control("FileNumber_Sync", Long, 0, read_only=True)
    group.control("FileNumber_write", Long, 0, read_only=True)
    group.fixed(["FileFormat"], Enum, 0, enum_strings=("HDF5",))
    group.fixed(["DeleteDriverFile"], Enum, 0, enum_strings=NO_YES)
    group.fixed(["ReadFile"], Enum, 0, enum_strings=("Done", "Read"))
    group.fixed(["TempSuffix"], String, "")
    group.fixed(["NumRowChunks", "NumColChunks", "ChunkSizeAuto"], Long, 0)
    group.fixed(["NDAttributeChunk"], Long, 0)
    group.fixed(["BoundaryAlign", "BoundaryThreshold", "FillValue"], Double, 0.0)
    group.fixed(["NumDataBits", "DataBitsOffset", "SZipNumPixels"], Long, 0)
    group.fixed(["BloscLevel"], Long, 0)
    group.fixed(["BloscShuffle"], Enum, 0, enum_strings=("None", "ByteShuffle", "BitShuffle"))
    group.fixed(
        ["BloscCompressor"], Enum, 0,
        enum_strings=("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd"),
    )  # fmt: skip
    group.fixed(["NumExtraDims"], Long, 0)
    for axis in _EXTRA:
        group.fixed([f"ExtraDimSize{axis}", f"ExtraDimChunk{axis}"], Long, 1)
        group.readback(f"ExtraDimName{axis}_RBV", String, "")
        group.fixed([f"PosNameDim{axis}", f"PosIndexDim{axis}"], String, "")
    group.fixed(["PositionMode"], Enum, 0, enum_strings=OFF_ON)
    group.fixed(["DimAttDatasets"], Enum, 0, enum_strings=NO_YES)
    group.fixed(["StoreAttr"], Enum, 1, enum_strings=NO_YES)
    group.fixed(["StorePerform"], Enum, 0, enum_strings=NO_YES)
    group.control("XMLFileName", CharArray, "", put=group.only("XMLFileName", b"\0"))
    group.readback("XMLFileName_RBV", CharArray, "")
    group.readback("XMLErrorMsg_RBV", CharArray, "")
    group.readback("XMLValid_RBV", Enum, 1, enum_strings=NO_YES)
    group.readback("SWMRSupported_RBV", Enum, 1, enum_strings=("Not Supported", "Supported"))


def show_array(group: RecordGroup, data_type: str, shape: Sequence[int], nbytes: int) -> None:
    """Tell clients what arrays are like now.

    Parameters
    ----------
    group
        Records with `add_array_records`.
    data_type
        One of ADCore's names, for example ``"UInt16"``.
    shape
        Sizes, slowest first.
    nbytes
        Size of an array; 0 where it varies.
    """
    sizes = (*reversed(shape), *[0] * (_DIMENSIONS - len(shape)))
    for axis in range(3):
        for name in (f"ArraySize{'XYZ'[axis]}_RBV", f"ArraySize{axis}", f"ArraySize{axis}_RBV"):
            _show(group, name, sizes[axis])
    _show(group, "ArraySize_RBV", nbytes)
    for name, value in (
        ("NDimensions", len(shape)),
        ("Dimensions", sizes),
        ("DataType", DATA_TYPES.index(data_type)),
    ):
        _show(group, name, value)
        _show(group, f"{name}_RBV", value)


def show_newest(group: RecordGroup, number: int, moment: float) -> None:
    """Tell clients which array was the last: its unique number, and its time (s since 1970)."""
    seconds = max(0.0, moment - EPICS_EPOCH)
    group.set("UniqueId_RBV", number)
    group.set("TimeStamp_RBV", seconds)
    group.set("EpicsTSSec_RBV", int(seconds))
    group.set("EpicsTSNsec_RBV", int(seconds % 1 * 1e9))


def _show(group: RecordGroup, name: str, value: object) -> None:
    if name in group.records:
        group.records[name].set(value)


def _done(value: int) -> None:
    """Take a put to a record that processes something which is always done here."""
