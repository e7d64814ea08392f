from apps import *
