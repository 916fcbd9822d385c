"""Printer and camera measured: photographs of a colour chart -> a profile -> a world."""

from physadv.calibration.chart import Chart, Reading, chart_json, chart_picture, load_chart, make_chart, read_chart
from physadv.calibration.difference import ciede2000
from physadv.calibration.face import Face, Sign, read_sign
from physadv.calibration.fit import Camera, PrintMap, fit_camera, fit_print_map, fit_reflectances
from physadv.calibration.profile import Measured, Profile, calibrate, load_profile
from physadv.calibration.world import fit_world, world_yaml

__all__ = [
    "Camera",
    "Chart",
    "Face",
    "Measured",
    "PrintMap",
    "Profile",
    "Reading",
    "Sign",
    "calibrate",
    "chart_json",
    "chart_picture",
    "ciede2000",
    "fit_camera",
    "fit_print_map",
    "fit_reflectances",
    "fit_world",
    "load_chart",
    "load_profile",
    "make_chart",
    "read_chart",
    "read_sign",
    "world_yaml",
]
