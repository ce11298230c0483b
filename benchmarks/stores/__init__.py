"""Do vector stores keep every row through writes, maps, fits and kills, in constant memory and at full speed?"""
