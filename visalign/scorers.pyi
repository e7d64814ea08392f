from scorers import *
