from trainers import *
