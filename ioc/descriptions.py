"""What the area-detector records are, in the 40 characters of DESC."""

from __future__ import annotations

from collections.abc import Iterable

from ioc.record import Record

__all__ = ["describe"]

_PLUGIN = {
    "ArrayCounter": "Arrays taken in",
    "ArraySize0": "Size of the fastest axis",
    "ArraySize1": "Size of the second axis",
    "ArraySize2": "Size of the third axis",
    "BlockingCallbacks": "Camera waits for the plugin",
    "ColorMode": "Colour mode of the arrays",
    "DataType": "Data type of the arrays",
    "DroppedArrays": "Arrays lost",
    "EnableCallbacks": "Plugin takes arrays in",
    "MinCallbackTime": "Shortest time between arrays",
    "NDArrayPort": "Port the arrays come from",
    "NDimensions": "Number of axes",
    "Dimensions": "Sizes of the axes",
    "PluginType": "Type of the plugin",
    "PortName": "Port of this driver",
    "QueueSize": "Size of the plugin's queue",
    "QueueFree": "Free places in the plugin's queue",
    "QueueUse": "Used places in the plugin's queue",
    "UniqueId": "Number of the last array",
    "TimeStamp": "Time of the last array",
    "DriverVersion": "Version of this driver",
    "ADCoreVersion": "Version of ADCore it follows",
    "NDArrayAddress": "Address the arrays come from",
}

#: By the name behind ``AD1:``, without ``_RBV``; a plugin's common names without the plugin.
_DESCRIPTIONS = _PLUGIN | {
    "cam1:Acquire": "Start or stop taking frames",
    "cam1:AcquirePeriod": "Time from frame to frame",
    "cam1:AcquireTime": "Exposure time of a frame",
    "cam1:ArrayCallbacks": "Frames are given to plugins",
    "cam1:ArrayCounter": "Frames taken",
    "cam1:ArrayRate": "Frames per second",
    "cam1:ArraySize": "Bytes of a frame",
    "cam1:ArraySizeX": "Columns of a frame",
    "cam1:ArraySizeY": "Rows of a frame",
    "cam1:ArraySizeZ": "Panels of a frame",
    "cam1:BeamX": "Beam centre, column",
    "cam1:BeamY": "Beam centre, row",
    "cam1:DetDist": "Distance from the sample",
    "cam1:DetectorState": "What the camera does",
    "cam1:ImageMode": "One frame, several, or until stopped",
    "cam1:Manufacturer": "Maker of the camera",
    "cam1:MaxSizeX": "Columns of the sensor",
    "cam1:MaxSizeY": "Rows of the sensor",
    "cam1:Model": "Model of the camera",
    "cam1:NumExposures": "Exposures per frame",
    "cam1:NumImages": "Frames to take",
    "cam1:NumImagesCounter": "Frames taken since the start",
    "cam1:Panels": "Panels of the detector",
    "cam1:PhotonEnergy": "Photon energy",
    "cam1:Preload": "Frames drawn once and repeated",
    "cam1:SimMode": "What is simulated",
    "cam1:SizeX": "Columns that are read",
    "cam1:SizeY": "Rows that are read",
    "cam1:Sparse": "Pixels, or a list of photons",
    "cam1:StatusMessage": "Why the camera is in trouble",
    "cam1:TimeRemaining": "Time to the end of the exposure",
    "cam1:TriggerMode": "What starts a frame",
    "cam1:XPixelSize": "Pixel width",
    "cam1:YPixelSize": "Pixel height",
    "HDF1:AutoIncrement": "FileNumber rises with every file",
    "HDF1:AutoSave": "Save every array by itself",
    "HDF1:Capture": "Open or close a file",
    "HDF1:Compression": "Compression of the frames",
    "HDF1:CreateDirectory": "How many missing directories are made",
    "HDF1:FileName": "Name of the file",
    "HDF1:FileNumber": "Number of the next file",
    "HDF1:FilePath": "Directory of the file",
    "HDF1:FilePathExists": "The directory exists",
    "HDF1:FileTemplate": "Pattern of path, name and number",
    "HDF1:FileWriteMode": "How frames go to files",
    "HDF1:FullFileName": "The file that is written",
    "HDF1:LazyOpen": "The first frame opens the file",
    "HDF1:NumCapture": "Frames of a file; 0: until closed",
    "HDF1:NumCaptured": "Frames in the file",
    "HDF1:SWMRMode": "Readers may follow the file",
    "HDF1:WriteFile": "Write the present array",
    "HDF1:WriteMessage": "Why a file can't be written",
    "HDF1:WriteStatus": "Whether the file could be written",
    "image1:ArrayData": "Pixels of the last frame",
}


def describe(records: Iterable[Record], prefix: str) -> None:
    """Give a DESC to the records of the area detector that have none.

    Parameters
    ----------
    records
        All records.
    prefix
        Prefix of the area detector, for example ``BL02:AD1:``.
    """
    for record in records:
        field = record.fields["DESC"]
        name = record.name.removeprefix(prefix).removesuffix("_RBV")
        if not field.current and record.name.startswith(prefix):
            text = _DESCRIPTIONS.get(name) or _DESCRIPTIONS.get(name.partition(":")[2], "")
            field.post(text)
